-- needs: base
-- id, driver, began, ended ('' while it runs), number of actors not yet reaped
local found = {}
for _, id in ipairs(call('ZRANGE', key.jobs, 0, -1)) do
  local job = call('HMGET', key.job(id), 'driver', 'began', 'ended')
  add(found, { id, job[1] or '', job[2] or '0', job[3] or '', call('SCARD', key.job_actors(id)) })
end
return found
