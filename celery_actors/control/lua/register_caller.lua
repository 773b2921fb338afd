-- needs: leases
-- id, job, node or '', lease (ms) or '', driver '1' or '0', namespace of the job
-- Returns 0 when the node is gone: its processes end with it, and nobody would end this one.
local id, job, node, lease, driver, namespace = unpack(ARGV, 3)
if node ~= '' then
  if call('EXISTS', key.node(node)) == 0 then return 0 end
  call('SADD', key.node_callers(node), id)
end
call('HSET', key.caller(id), 'job', job, 'node', node, 'driver', driver, 'began', now)
if lease ~= '' then
  note_renewal(tonumber(lease))
  call('ZADD', key.callers, now + tonumber(lease), id)
end
if driver == '1' and call('EXISTS', key.job(job)) == 0 then
  call('HSET', key.job(job), 'driver', id, 'began', now, 'namespace', namespace)
  call('ZADD', key.jobs, '+inf', job)
end
return 1
