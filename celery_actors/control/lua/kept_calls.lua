-- needs: base
return call('LRANGE', key.job_calls(ARGV[3]), 0, -1)
