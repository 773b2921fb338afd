-- needs: base
-- job, digest, blob
return call('HSETNX', key.job_definitions(ARGV[3]), ARGV[4], ARGV[5])
