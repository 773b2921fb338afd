-- How placement groups end, and what they lose. Needs base.lua and placement.lua.
--
-- `die` is lifecycle.lua's, which is built on this.

local KEEP_REMOVED_MS = 600000

-- A removed group stays readable for a while, as long as its job is known.
local function forget_or_keep(group)
  local job = call('HMGET', key.job(group.job), 'driver', 'forgotten')
  if job[1] and not job[2] then
    call('PEXPIRE', key.group(group.id), KEEP_REMOVED_MS)
    call('ZADD', key.groups, now + KEEP_REMOVED_MS, group.id)
  else
    call('DEL', key.group(group.id))
    call('SREM', key.job_groups(group.job), group.id)
    call('ZREM', key.groups, group.id)
  end
end

local function end_member(actor, cause, die)
  local begun = actor.state ~= 'PENDING' and actor.state ~= 'PLACED'
  if begun then add(out.stop, placement_of(actor)) else add(out.cancelled, actor.id) end
  die(actor, cause)
end

-- What waits for one of the group's bundles is dead.
local function end_waiting_members(group, cause, die)
  for _, text in ipairs(call('SMEMBERS', key.shapes)) do
    if string.find(text, group.id, 1, true) and parse_shape(text).group == group.id then
      for _, id in ipairs(call('ZRANGE', key.waiting(text), 0, -1)) do
        end_member(read_actor(id), cause, die)
      end
    end
  end
end

-- What runs in the group's bundles on a node is to be killed. Until it is reaped it holds its own
-- part, of the node now; what nobody holds goes back at once.
local function return_bundles(node_id, tokens, cause, die)
  local flat = call('HGETALL', key.reservations(node_id))
  for i = 1, #flat, 2 do
    local held = cjson.decode(flat[i + 1])
    if held.bundle and tokens[held.bundle] then
      held.bundle = nil
      call('HSET', key.reservations(node_id), flat[i], cjson.encode(held))
      local actor = read_actor(held.actor)
      if actor and actor.incarnation == flat[i] then end_member(actor, cause, die) end
    end
  end
  for token in pairs(tokens) do
    local flat_bundle = call('HGETALL', key.bundle(token))
    for i = 1, #flat_bundle, 2 do
      local sort, name = string.sub(flat_bundle[i], 1, 2), string.sub(flat_bundle[i], 3)
      local value = flat_bundle[i + 1]
      if sort == 'f:' then
        call('HINCRBY', key.node(node_id), 'f:' .. name, value)
      elseif sort == 't:' then
        call('HINCRBY', key.node(node_id), 'b:' .. name, '-' .. value)
      elseif sort == 'g:' then
        call('HINCRBY', key.node(node_id), 'g:' .. name, tonumber(value) - WHOLE_GPU)
      elseif sort == 'h:' then
        call('HINCRBY', key.node(node_id), 'h:' .. name, tonumber(value) - WHOLE_GPU)
      end
    end
    call('DEL', key.bundle(token))
    call('SREM', key.bundles(node_id), token)
  end
  forget_rooms()
end

-- To REMOVED, whatever it was, with all that runs in it.
local function close_group(group, cause, die)
  if group.line ~= '' then leave_line({ id = group.id, shape = group.line }) end
  end_waiting_members(group, cause, die)
  local by_node = {}
  for place, node in ipairs(cjson.decode(group.nodes)) do
    if node ~= '' then
      by_node[node] = by_node[node] or {}
      by_node[node][group.id .. ':' .. place - 1] = true
    end
  end
  for node, tokens in pairs(by_node) do return_bundles(node, tokens, cause, die) end
  if group.name ~= '' then
    local field = name_field(group.namespace, group.name)
    if call('HGET', key.group_names, field) == group.id then call('HDEL', key.group_names, field) end
  end
  local none = {}
  for place in ipairs(cjson.decode(group.nodes)) do none[place] = '' end
  move_group(group, 'REMOVED', 'nodes', cjson.encode(none), 'line', '')
  forget_or_keep(group)
end

local function creator_lives(group)
  if group.actor == '' then return false end
  local creator = read_actor(group.actor)
  return creator and creator.detached and creator.state ~= 'DEAD'
end

-- The groups of a job end with it, but for detached ones and those that a detached actor made.
local function close_groups_of_job(job, die)
  for _, id in ipairs(call('SMEMBERS', key.job_groups(job))) do
    local group = read_group(id)
    if group and group.state ~= 'REMOVED' and not group.detached and not creator_lives(group) then
      close_group(group, 'its placement group was removed: its job ended', die)
    end
  end
end

-- ... which end with the process that made them.
local function close_groups_of_caller(caller, job, die)
  local record = call('HMGET', key.job(job), 'driver', 'ended')
  if record[1] and not record[2] then return end
  for _, id in ipairs(call('SMEMBERS', key.job_groups(job))) do
    local group = read_group(id)
    if group and group.state ~= 'REMOVED' and not group.detached and group.caller == caller then
      close_group(group, 'its placement group was removed: the actor that made it ended', die)
    end
  end
end

-- A node is lost, and what lay on it. Its bundles are laid out anew, before all others that wait.
local function lose_bundles(node_id)
  for _, token in ipairs(call('SMEMBERS', key.bundles(node_id))) do
    local id, index = string.match(token, '^(%x+):(%d+)$')
    local group = read_group(id)
    local nodes = cjson.decode(group.nodes)
    nodes[tonumber(index) + 1] = ''
    call('HSET', key.group(id), 'nodes', cjson.encode(nodes))
    call('DEL', key.bundle(token))
    if group.state == 'CREATED' then
      local line = cjson.encode({ again = id })
      move_group(group, 'RESCHEDULING', 'line', line, 'order', 0)
      wait_for_node({ id = id, shape = line, order = 0 })
    end
  end
  call('DEL', key.bundles(node_id))
  forget_rooms()
end
