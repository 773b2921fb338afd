-- needs: base
-- caller, number, what is to be written (JSON): `describe` metrics by name, `add` to sums and `set`
-- gauges by series; amounts are decimal text
-- A repeat of what was done (the answer was lost) does nothing. Of who has ended, nothing is kept.
local caller, number, what = ARGV[3], ARGV[4], cjson.decode(ARGV[5])
local job, done = unpack(call('HMGET', key.caller(caller), 'job', 'metrics'))
if not job then return 0 end
if done == number then return 1 end
call('HSET', key.caller(caller), 'metrics', number)
for name, text in pairs(what.describe) do call('HSET', key.job_metrics(job), name, text) end
for series, amount in pairs(what.add) do
  call('HINCRBYFLOAT', key.job_metrics(job), series, amount)
end
if next(what.set) then call('SADD', key.job_gauges(job), caller) end
for series, value in pairs(what.set) do call('HSET', key.caller_gauges(caller), series, value) end
return 1
