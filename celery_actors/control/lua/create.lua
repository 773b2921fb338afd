-- needs: base placement holding
-- id, job, caller, kind, class, detached, shape, blob, ready, name, namespace, max_restarts, handle
-- Answers `gone` when the caller has ended: nobody would ever release its hold.
local id, job, caller, kind, class, detached, shape_text, blob, ready, name, namespace, max_restarts,
  handle = unpack(ARGV, 3)
local known = read_actor(id)
if known then
  out.placed = known.state ~= 'PENDING' and known.state ~= 'UNREADY'
  if known.state == 'PLACED' then add(out.placements, placement_of(known)) end
  return answer()
end
if not owner_lives(caller, 'p') then return cjson.encode({ gone = true }) end
if name ~= '' then
  local existing = call('HGET', key.names, name_field(namespace, name))
  if existing then return cjson.encode({ existing = existing }) end
end

local shape = parse_shape(shape_text)
if shape.group then
  local group = read_group(shape.group)
  if not group or group.state == 'REMOVED' then return cjson.encode({ removed = shape.group }) end
end
local able = shape.group or #live_nodes() == 0
for _, node in ipairs(live_nodes()) do able = able or eligible(node, shape) end
if not able then
  local short = { best = {}, cluster = {}, named = {}, names = {} }
  for _, node in ipairs(live_nodes()) do
    add(short.names, node.name)
    if is_allowed(node, shape) then
      add(short.named, node.name)
      for asked in pairs(shape.want) do
        local total = node.total[asked] or 0
        short.best[asked] = math.max(short.best[asked] or 0, total)
        short.cluster[asked] = (short.cluster[asked] or 0) + total
      end
    end
  end
  return cjson.encode({ short = short })
end

local order = call('INCR', key.order)
call('HSET', key.actor(id), 'state', ready == '1' and 'PENDING' or 'UNREADY', 'since', now,
  'created', now, 'job', job, 'caller', caller, 'kind', kind, 'class', class, 'detached', detached,
  'shape', shape_text, 'order', order, 'incarnation', '', 'node', '', 'gpus', '', 'blob', blob,
  'name', name, 'namespace', namespace, 'restarts', 0, 'max_restarts', max_restarts,
  'handle', handle)
call('SADD', key.job_actors(job), id)
call('ZADD', key.actors, '+inf', id)
call('PERSIST', key.actors)
if name ~= '' then call('HSET', key.names, name_field(namespace, name), id) end
write_hold(id, caller, 'p')
if ready ~= '1' then return answer() end
wait_for_node({ id = id, shape = shape_text, order = order })
place_waiting()
out.placed = call('HGET', key.actor(id), 'state') == 'PLACED'
return answer()
