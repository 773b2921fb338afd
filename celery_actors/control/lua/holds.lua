-- needs: base
return call('SMEMBERS', key.holds(ARGV[3]))
