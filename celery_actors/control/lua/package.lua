-- needs: base
return call('HGET', key.job_packages(ARGV[3]), ARGV[4])
