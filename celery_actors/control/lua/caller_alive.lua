-- needs: base
return call('EXISTS', key.caller(ARGV[3]))
