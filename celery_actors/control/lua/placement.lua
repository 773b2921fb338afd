-- needs: rooms fitting
-- Who runs where. Needs base.lua.
--
-- Requests wait in lines, one line a *shape* (what is asked for, and where), each line in the order
-- of arrival. Requests of one shape are interchangeable: where the first does not fit none does, so a
-- release looks at one request a shape however many wait. A request is an actor or a placement group.
--
-- Guarantee: a waiting request keeps later ones from taking any resource kind that it wants in any
-- room that it could have, so none starves; in rooms that could never be its, it is in nobody's way.
-- Rooms that it could not have while the groups on them last are not kept for it until these go.

local function rank(room, shape)
  local use = utilisation(room, shape.want)
  if room.token then -- of a group's bundles the one that is left fullest, and wasted least
    local wasted = 0
    for kind in pairs(room.total) do
      if not shape.want[kind] then wasted = wasted + 1 end
    end
    return { room.id == shape.avoid and 1 or 0, wasted, -use, room.count, room.index }
  end
  return {
    room.id == shape.avoid and 1 or 0,
    shape.node and not is_named(room, shape) and 1 or 0,
    shape.preferred and not has_labels(room, shape.preferred) and 1 or 0,
    shape.spread and room.count or use,
    shape.spread and use or room.count,
    room.name,
  }
end

local function choose(shape)
  local best, best_rank
  for _, room in ipairs(rooms_for(shape)) do
    if eligible(room, shape) and has_room(room, shape.want) then
      local its_rank = rank(room, shape)
      if not best or before(its_rank, best_rank) then best, best_rank = room, its_rank end
    end
  end
  return best
end

local function block(room, want)
  for kind in pairs(want) do room.blocked[kind] = true end
end

-- A waiting request's claim: what it wants, in the rooms that it could have, is not for later ones.
local function keep_for(shape)
  for _, room in ipairs(rooms_for(shape)) do
    if eligible(room, shape) and has_room(cleared(room), shape.want) then block(room, shape.want) end
  end
end

local function keep_for_group(shape)
  local idle = {}
  for _, node in ipairs(live_nodes()) do add(idle, cleared(node)) end
  local laid_out = fit_bundles(shape, idle)
  if not laid_out then return end
  for _, bundle in pairs(laid_out) do draw(bundle.node, bundle.item.want, bundle.gpus, -1) end
  for _, bundle in pairs(laid_out) do
    for _, node in ipairs(live_nodes()) do
      if has_labels(node, bundle.item.labels) and has_room(cleared(node), bundle.item.want) then
        block(node, bundle.item.want)
      end
    end
  end
end

local function place(actor, room, shape)
  -- Scripts have no entropy: Python sends some with each call, and the counter parts one call's uses.
  local incarnation = string.sub(
    redis.sha1hex(ENTROPY .. ':' .. actor.id .. ':' .. #out.placements), 1, 16)
  local gpus = pick_gpus(room, shape.want.GPU)
  local share = gpu_share(shape.want)
  for kind, amount in pairs(shape.raw) do call('HINCRBY', room.key, 'f:' .. kind, '-' .. amount) end
  for _, gpu in ipairs(gpus) do call('HINCRBY', room.key, 'g:' .. gpu, share) end
  draw(room, shape.want, gpus, 1)
  room.count = room.count + 1
  if room.token then call('HINCRBY', room.key, 'count', 1) end
  call('HSET', key.reservations(room.id), incarnation, cjson.encode({
    actor = actor.id, want = shape.raw, gpus = gpus, share = share, blocked = false,
    bundle = room.token,
  }))
  actor.node, actor.incarnation = room.id, incarnation
  move(actor, 'PLACED', 'node', room.id, 'incarnation', incarnation,
    'gpus', table.concat(gpus, ','))
  call('ZADD', key.placed, now, actor.id)
  add(out.placements, placement_of(actor))
  if actor.kind == 'executor' then tell(actor.caller, 'L' .. actor.id) end
end

-- What a bundle takes of its node (sign '') or gives back ('-').
local function take_for_bundle(node_id, raw, gpus, share, sign)
  local node = key.node(node_id)
  local other = sign == '' and '-' or ''
  for kind, amount in pairs(raw) do
    call('HINCRBY', node, 'f:' .. kind, other .. amount)
    call('HINCRBY', node, 'b:' .. kind, sign .. amount)
  end
  for _, gpu in ipairs(gpus) do
    call('HINCRBY', node, 'g:' .. gpu, sign .. share)
    call('HINCRBY', node, 'h:' .. gpu, sign .. share)
  end
end

local function place_group(id, laid_out)
  local group = read_group(id)
  local nodes = cjson.decode(group.nodes)
  for index, bundle in pairs(laid_out) do
    local node, item = bundle.node, bundle.item
    local token, share = id .. ':' .. index, gpu_share(item.want)
    take_for_bundle(node.id, item.raw, bundle.gpus, share, '')
    for kind, amount in pairs(item.want) do
      node.bundled[kind] = (node.bundled[kind] or 0) + amount
    end
    call('HSET', key.bundle(token), 'count', 0)
    for kind, amount in pairs(item.raw) do
      call('HSET', key.bundle(token), 't:' .. kind, amount, 'f:' .. kind, amount)
    end
    for _, gpu in ipairs(bundle.gpus) do
      node.kept[gpu] = (node.kept[gpu] or 0) + share
      local others = WHOLE_GPU - share
      call('HSET', key.bundle(token), 'g:' .. gpu, others, 'h:' .. gpu, others)
    end
    node.cleared = nil
    call('SADD', key.bundles(node.id), token)
    nodes[index + 1] = node.id
  end
  known_bundles[id] = nil
  move_group(group, 'CREATED', 'nodes', cjson.encode(nodes), 'placed', now)
end

local newly_waiting = {}

-- Puts a PENDING request into its line, at its own place.
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

-- Places the first of a line, if there is room.
local function place_head(head)
  if head.shape.bundles or head.shape.again then
    call('HINCRBY', key.group(head.id), 'attempts', 1)
    local laid_out = fit_bundles(head.shape, live_nodes())
    if laid_out then
      leave_line({ id = head.id, shape = head.text })
      place_group(head.id, laid_out)
    else
      keep_for_group(head.shape)
    end
    return laid_out
  end
  local room = choose(head.shape)
  if room then
    local actor = read_actor(head.id)
    leave_line(actor)
    place(actor, room, head.shape)
  else
    keep_for(head.shape)
  end
  return room
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
    local placed = place_head(head)
    if placed then head.id, head.order = first_in_line(head.text) end
    if not placed or not head.id then table.remove(heads, first) end
  end
  if next(newly_waiting) then tell_all('R') end
end

-- Where what is held was taken from.
local function key_of_room(node_id, held)
  return held.bundle and key.bundle(held.bundle) or key.node(node_id)
end

-- Gives a reservation back; false when there is none (given back before, or its node is gone).
local function release(node_id, incarnation)
  local raw = call('HGET', key.reservations(node_id), incarnation)
  if not raw then return false end
  forget_rooms()
  local held = cjson.decode(raw)
  local room = key_of_room(node_id, held)
  for kind, amount in pairs(held.want) do
    if not (held.blocked and kind == 'CPU') then call('HINCRBY', room, 'f:' .. kind, amount) end
  end
  for _, gpu in ipairs(held.gpus) do call('HINCRBY', room, 'g:' .. gpu, -held.share) end
  if held.bundle then call('HINCRBY', room, 'count', -1) end
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
