-- needs: base placement holding
-- id, job, caller, actor or '', name, namespace, detached, shape, number of bundles
-- Answers `gone` when the caller has ended, `taken` when another group of that name is there.
local id, job, caller, actor, name, namespace, detached, shape, count = unpack(ARGV, 3)
if call('EXISTS', key.group(id)) == 1 then return answer() end
if not owner_lives(caller, 'p') then return cjson.encode({ gone = true }) end
if name ~= '' then
  local field = name_field(namespace, name)
  local known = call('HGET', key.group_names, field)
  if known then return cjson.encode({ taken = known }) end
  call('HSET', key.group_names, field, id)
end
local nodes = {}
for place = 1, tonumber(count) do nodes[place] = '' end
local order = call('INCR', key.order)
call('HSET', key.group(id), 'state', 'PENDING', 'since', now, 'created', now, 'job', job,
  'caller', caller, 'actor', actor, 'name', name, 'namespace', namespace, 'detached', detached,
  'shape', shape, 'line', shape, 'order', order, 'nodes', cjson.encode(nodes))
call('SADD', key.job_groups(job), id)
call('ZADD', key.groups, '+inf', id)
wait_for_node({ id = id, shape = shape, order = order })
place_waiting()
return answer()
