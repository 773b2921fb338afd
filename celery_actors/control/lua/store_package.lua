-- needs: base
-- job, field (digest:index, or the digest itself for the number of chunks), value
-- Returns 0 when the job is over: nobody would ever delete it.
if call('EXISTS', key.job(ARGV[3])) == 0 then return 0 end
call('HSETNX', key.job_packages(ARGV[3]), ARGV[4], ARGV[5])
return 1
