-- needs: base
-- job, most, what is to be kept...
local job, most = ARGV[3], tonumber(ARGV[4])
if call('EXISTS', key.job(job)) == 0 then return 0 end
for i = 5, #ARGV, 500 do -- unpack() has no room for all of them
  call('RPUSH', key.job_calls(job), unpack(ARGV, i, math.min(i + 499, #ARGV)))
end
call('LTRIM', key.job_calls(job), -most, -1)
return 1
