-- needs: base
return call('SMEMBERS', key.job_actors(ARGV[3]))
