-- needs: base
-- For each job: id, descriptions and sums, and for each of its callers with gauges id and these.
local found = {}
for _, job in ipairs(call('ZRANGE', key.jobs, 0, -1)) do
  local gauges = {}
  for _, caller in ipairs(call('SMEMBERS', key.job_gauges(job))) do
    add(gauges, { caller, call('HGETALL', key.caller_gauges(caller)) })
  end
  add(found, { job, call('HGETALL', key.job_metrics(job)), gauges })
end
return found
