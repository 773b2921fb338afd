-- needs: base
-- What still runs (detached actors) or is yet to be reaped keeps the definitions; the last of it to
-- go takes them along.
local job = ARGV[3]
for _, id in ipairs(call('ZRANGE', key.job_dead(job), 0, -1)) do
  if call('HGET', key.actor(id), 'detached') ~= '1' then
    call('DEL', key.actor(id), key.cursors(id))
    call('ZREM', key.job_dead(job), id)
    call('ZREM', key.actors, id)
  end
end
for _, id in ipairs(call('SMEMBERS', key.job_groups(job))) do
  if call('HGET', key.group(id), 'state') == 'REMOVED' then
    call('DEL', key.group(id))
    call('SREM', key.job_groups(job), id)
    call('ZREM', key.groups, id)
  end
end
if call('EXISTS', key.job_actors(job)) == 1 then
  call('HSET', key.job(job), 'forgotten', now)
else
  call('UNLINK', key.of_job(job)) -- may be large
  call('ZREM', key.jobs, job)
end
tidy_line()
return 1
