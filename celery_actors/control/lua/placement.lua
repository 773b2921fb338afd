-- Who runs where. Needs base.lua.
--
-- Requests wait in lines, one line a *shape* (what is asked for, and where), each line in the order
-- of arrival. Requests of one shape are interchangeable: where the first does not fit none does, so a
-- release looks at one request a shape however many wait.
--
-- Guarantee: a waiting request keeps later ones from taking any resource kind that it wants on any
-- node that could run it, so none starves; on nodes that could never run it, it is in nobody's way.

local WHOLE_GPU = 10000

local known_nodes = nil

-- The nodes with a running lease, read once a script.
local function live_nodes()
  if known_nodes then return known_nodes end
  known_nodes = {}
  for _, id in ipairs(call('ZRANGEBYSCORE', key.nodes, '(' .. now, '+inf')) do
    local node = { id = id, total = {}, free = {}, gpus = {}, used = {}, blocked = {} }
    local flat = call('HGETALL', key.node(id))
    for i = 1, #flat, 2 do
      local field, value = flat[i], flat[i + 1]
      local sort = string.sub(field, 1, 2)
      if sort == 't:' then
        node.total[string.sub(field, 3)] = tonumber(value)
      elseif sort == 'f:' then
        node.free[string.sub(field, 3)] = tonumber(value)
      elseif sort == 'g:' then
        local gpu = tonumber(string.sub(field, 3))
        add(node.gpus, gpu)
        node.used[gpu] = tonumber(value)
      elseif field == 'name' then
        node.name = value
      elseif field == 'labels' then
        node.label_text = value
      end
    end
    table.sort(node.gpus)
    node.count = call('HLEN', key.reservations(id))
    add(known_nodes, node)
  end
  return known_nodes
end

-- A shape is JSON written by Python, and after its closing brace '!' and a node to avoid, if any.
local function parse_shape(text)
  local body, avoid = string.match(text, '^(.*})!(%x+)$')
  local parsed = cjson.decode(body or text)
  local shape = {
    text = text, want = {}, raw = parsed.want, node = parsed.node, soft = parsed.soft,
    spread = parsed.spread, spill = parsed.spill, labels = parsed.labels,
    preferred = parsed.preferred, avoid = avoid,
  }
  if shape.node == cjson.null then shape.node = nil end
  for kind, amount in pairs(parsed.want) do shape.want[kind] = tonumber(amount) end
  return shape
end

local function is_named(node, shape) return node.id == shape.node or node.name == shape.node end

-- Do the node's labels satisfy all rules ({ key, operator, values })?
local function has_labels(node, rules)
  for _, rule in ipairs(rules or {}) do
    node.labels = node.labels or cjson.decode(node.label_text)
    local value, operator = node.labels[rule[1]], rule[2]
    local found = value ~= nil
    if operator == 'in' or operator == '!in' then
      found = false
      for _, wanted in ipairs(rule[3]) do found = found or value == wanted end
    end
    if found == (string.sub(operator, 1, 1) == '!') then return false end
  end
  return true
end

-- Is the node among those that the request allows?
local function is_allowed(node, shape)
  return (not shape.node or shape.soft or is_named(node, shape)) and has_labels(node, shape.labels)
end

local function is_large_enough(node, shape)
  for kind, amount in pairs(shape.want) do
    if (node.total[kind] or 0) < amount then return false end
  end
  return true
end

-- Could the node run it, were it idle? A soft wish for a node binds as long as that node could.
local function eligible(node, shape)
  if not is_allowed(node, shape) or not is_large_enough(node, shape) then return false end
  if not shape.node or shape.spill or is_named(node, shape) then return true end
  if shape.named_able == nil then
    shape.named_able = false
    for _, other in ipairs(live_nodes()) do
      if is_named(other, shape) and has_labels(other, shape.labels)
        and is_large_enough(other, shape) then
        shape.named_able = true
      end
    end
  end
  return not shape.named_able
end

-- The GPUs to give, or nil. A fraction joins the fullest GPU that has room, so that whole ones stay.
local function pick_gpus(node, amount)
  local picked = {}
  if not amount then return picked end
  if amount >= WHOLE_GPU then
    for _, gpu in ipairs(node.gpus) do
      if #picked * WHOLE_GPU < amount and node.used[gpu] == 0 then add(picked, gpu) end
    end
    return #picked * WHOLE_GPU == amount and picked or nil
  end
  for _, gpu in ipairs(node.gpus) do
    local used = node.used[gpu]
    if used + amount <= WHOLE_GPU and (not picked[1] or used > node.used[picked[1]]) then
      picked[1] = gpu
    end
  end
  return picked[1] and picked or nil
end

local function has_room(node, shape)
  for kind, amount in pairs(shape.want) do
    if node.blocked[kind] or (node.free[kind] or 0) < amount then return false end
  end
  return pick_gpus(node, shape.want.GPU) ~= nil
end

-- How full the node would be: the fullest of the kinds asked for.
local function utilisation(node, shape)
  local worst = 0
  for kind, amount in pairs(shape.want) do
    local share = (node.total[kind] - node.free[kind] + amount) / node.total[kind]
    if share > worst then worst = share end
  end
  return worst
end

local function rank(node, shape)
  local use = utilisation(node, shape)
  return {
    node.id == shape.avoid and 1 or 0,
    shape.node and not is_named(node, shape) and 1 or 0,
    shape.preferred and not has_labels(node, shape.preferred) and 1 or 0,
    shape.spread and node.count or use,
    shape.spread and use or node.count,
    node.name,
  }
end

local function before(a, b)
  for i = 1, #a do
    if a[i] ~= b[i] then return a[i] < b[i] end
  end
  return false
end

local function choose(shape)
  local best, best_rank
  for _, node in ipairs(live_nodes()) do
    if eligible(node, shape) and has_room(node, shape) then
      local its_rank = rank(node, shape)
      if not best or before(its_rank, best_rank) then best, best_rank = node, its_rank end
    end
  end
  return best
end

-- A waiting request's claim: what it wants, on the nodes that could run it, is not for later ones.
local function keep_for(shape)
  for _, node in ipairs(live_nodes()) do
    if eligible(node, shape) then
      for kind in pairs(shape.want) do node.blocked[kind] = true end
    end
  end
end

local function place(actor, node, shape)
  -- Scripts have no entropy: Python sends some with each call, and the counter parts one call's uses.
  local incarnation = string.sub(
    redis.sha1hex(ENTROPY .. ':' .. actor.id .. ':' .. #out.placements), 1, 16)
  local gpus = pick_gpus(node, shape.want.GPU)
  local share = shape.want.GPU
  if share and share > WHOLE_GPU then share = WHOLE_GPU end
  for kind, amount in pairs(shape.raw) do
    call('HINCRBY', key.node(node.id), 'f:' .. kind, '-' .. amount)
    node.free[kind] = node.free[kind] - shape.want[kind]
  end
  for _, gpu in ipairs(gpus) do
    call('HINCRBY', key.node(node.id), 'g:' .. gpu, share)
    node.used[gpu] = node.used[gpu] + share
  end
  node.count = node.count + 1
  call('HSET', key.reservations(node.id), incarnation, cjson.encode({
    actor = actor.id, want = shape.raw, gpus = gpus, share = share, blocked = false,
  }))
  actor.node, actor.incarnation = node.id, incarnation
  move(actor, 'PLACED', 'node', node.id, 'incarnation', incarnation,
    'gpus', table.concat(gpus, ','))
  call('ZADD', key.placed, now, actor.id)
  add(out.placements, placement_of(actor))
  if actor.kind == 'executor' then tell(actor.caller, 'L' .. actor.id) end
end

local newly_waiting = {}

-- Puts a PENDING actor into its line, at its own place.
local function wait_for_node(actor)
  call('SADD', key.shapes, actor.shape)
  call('ZADD', key.waiting(actor.shape), actor.order, actor.id)
  newly_waiting[actor.id] = true
end

local function leave_line(actor)
  call('ZREM', key.waiting(actor.shape), actor.id)
  if call('EXISTS', key.waiting(actor.shape)) == 0 then call('SREM', key.shapes, actor.shape) end
  newly_waiting[actor.id] = nil
end

local function first_in_line(text)
  local head = call('ZRANGE', key.waiting(text), 0, 0, 'WITHSCORES')
  return head[1], tonumber(head[2])
end

-- Places all that may be placed now, oldest first. The last thing that a script which freed
-- something, added a request or took one away does.
local function place_waiting()
  local heads = {}
  for _, text in ipairs(call('SMEMBERS', key.shapes)) do
    local id, order = first_in_line(text)
    add(heads, { text = text, id = id, order = order })
  end
  while #heads > 0 do
    local first = 1
    for i = 2, #heads do
      if heads[i].order < heads[first].order then first = i end
    end
    local head = heads[first]
    head.shape = head.shape or parse_shape(head.text)
    local node = choose(head.shape)
    if node then
      local actor = read_actor(head.id)
      leave_line(actor)
      place(actor, node, head.shape)
      head.id, head.order = first_in_line(head.text)
    else
      keep_for(head.shape)
    end
    if not node or not head.id then table.remove(heads, first) end
  end
  if next(newly_waiting) then tell_all('R') end
end

-- Gives a reservation back; false when there is none (given back before, or its node is gone).
local function release(node_id, incarnation)
  local raw = call('HGET', key.reservations(node_id), incarnation)
  if not raw then return false end
  known_nodes = nil
  local held = cjson.decode(raw)
  for kind, amount in pairs(held.want) do
    if not (held.blocked and kind == 'CPU') then
      call('HINCRBY', key.node(node_id), 'f:' .. kind, amount)
    end
  end
  for _, gpu in ipairs(held.gpus) do
    call('HINCRBY', key.node(node_id), 'g:' .. gpu, -held.share)
  end
  call('HDEL', key.reservations(node_id), incarnation)
  return true
end

-- A placed actor that has not begun goes back to its own place in the line, not to its end.
-- `avoid`: a node that did not begin it, taken only when there is no other.
local function place_again(actor, avoid)
  release(actor.node, actor.incarnation)
  call('ZREM', key.placed, actor.id)
  local body = string.match(actor.shape, '^(.*})!%x+$') or actor.shape
  actor.shape = avoid and body .. '!' .. avoid or body
  move(actor, 'PENDING', 'node', '', 'incarnation', '', 'gpus', '', 'shape', actor.shape)
  wait_for_node(actor)
end
