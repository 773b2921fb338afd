-- needs: base
return call('HGET', key.job_definitions(ARGV[3]), ARGV[4])
