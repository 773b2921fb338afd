-- needs: leases
-- Where there is room. Needs base.lua.
--
-- A *room* is what a request can be put into: a node, or a bundle of a placement group, which has
-- taken a part of its node and gives that out as a node does. Each is a hash with `t:` totals, `f:`
-- free amounts, `g:` used parts of GPUs; `b:` amounts and `h:` parts of GPUs that are not its to give
-- until somebody removes a group: of a node, what its bundles have; of a bundle that shares a GPU,
-- the others' part.

local WHOLE_GPU = 10000

local known_nodes = nil
local known_bundles = {}

local function forget_rooms()
  known_nodes, known_bundles = nil, {}
end

local SORTS = { ['t:'] = 'total', ['f:'] = 'free', ['g:'] = 'used', ['b:'] = 'bundled', ['h:'] = 'kept' }

local function read_room(hash)
  local room = { key = hash, total = {}, free = {}, used = {}, bundled = {}, kept = {}, gpus = {},
    blocked = {} }
  local flat = call('HGETALL', hash)
  for i = 1, #flat, 2 do
    local field, value = flat[i], flat[i + 1]
    local sort = SORTS[string.sub(field, 1, 2)]
    if sort == 'used' or sort == 'kept' then
      room[sort][tonumber(string.sub(field, 3))] = tonumber(value)
    elseif sort then
      room[sort][string.sub(field, 3)] = tonumber(value)
    else
      room[field] = value
    end
  end
  for gpu in pairs(room.used) do add(room.gpus, gpu) end
  table.sort(room.gpus)
  return room
end

-- The nodes with a running lease, read once a script.
local function live_nodes()
  if known_nodes then return known_nodes end
  known_nodes = {}
  for _, id in ipairs(call('ZRANGEBYSCORE', key.nodes, running_from(), '+inf')) do
    local node = read_room(key.node(id))
    node.id = id
    node.count = call('HLEN', key.reservations(id))
    add(known_nodes, node)
  end
  return known_nodes
end

-- A group's bundles that lie on nodes with a running lease, read once a script.
local function bundles_of(group)
  if known_bundles[group] then return known_bundles[group] end
  local found, by_id = {}, {}
  for _, node in ipairs(live_nodes()) do by_id[node.id] = node end
  for place, id in ipairs(cjson.decode(call('HGET', key.group(group), 'nodes') or '[]')) do
    local node = by_id[id]
    if node then
      local token = group .. ':' .. place - 1
      local bundle = read_room(key.bundle(token))
      bundle.id, bundle.name, bundle.label_text = node.id, node.name, node.labels
      bundle.token, bundle.index, bundle.count = token, place - 1, tonumber(bundle.count)
      add(found, bundle)
    end
  end
  known_bundles[group] = found
  return found
end

local function amounts(raw)
  local numbers = {}
  for kind, amount in pairs(raw) do numbers[kind] = tonumber(amount) end
  return numbers
end

-- A shape is JSON written by Python, and after its closing brace '!' and a node to avoid, if any.
-- That of a placement group has `bundles`, or is `{"again":<group>}` where some of them are lost.
local function parse_shape(text)
  local body, avoid = string.match(text, '^(.*})!(%x+)$')
  local shape = cjson.decode(body or text)
  shape.text, shape.avoid = text, avoid
  if shape.node == cjson.null then shape.node = nil end
  if shape.want then shape.raw, shape.want = shape.want, amounts(shape.want) end
  return shape
end

local function rooms_for(shape) return shape.group and bundles_of(shape.group) or live_nodes() end

local function is_named(node, shape) return node.id == shape.node or node.name == shape.node end

-- Do the node's labels satisfy all rules ({ key, operator, values })?
local function has_labels(room, rules)
  if not rules or not rules[1] then return true end
  local labels = cjson.decode(room.label_text or room.labels)
  for _, rule in ipairs(rules) do
    local value, operator = labels[rule[1]], rule[2]
    local found = value ~= nil
    if operator == 'in' or operator == '!in' then
      found = false
      for _, wanted in ipairs(rule[3]) do found = found or value == wanted end
    end
    if found == (string.sub(operator, 1, 1) == '!') then return false end
  end
  return true
end

local function is_large_enough(room, want)
  for kind, amount in pairs(want) do
    if (room.total[kind] or 0) < amount then return false end
  end
  return true
end

-- Is the room among those that the request allows?
local function is_allowed(room, shape)
  if shape.group and shape.bundle >= 0 and room.index ~= shape.bundle then return false end
  return (not shape.node or shape.soft or is_named(room, shape)) and has_labels(room, shape.labels)
end

-- Could it run there, were the room idle? A soft wish for a node binds as long as that node could.
local function eligible(room, shape)
  if not is_allowed(room, shape) or not is_large_enough(room, shape.want) then return false end
  if not shape.node or shape.spill or is_named(room, shape) then return true end
  if shape.named_able == nil then
    shape.named_able = false
    for _, other in ipairs(live_nodes()) do
      if is_named(other, shape) and has_labels(other, shape.labels)
        and is_large_enough(other, shape.want) then
        shape.named_able = true
      end
    end
  end
  return not shape.named_able
end

-- The GPUs to give, or nil. A fraction joins the fullest GPU that has room, so that whole ones stay.
local function pick_gpus(room, amount)
  local picked = {}
  if not amount then return picked end
  if amount >= WHOLE_GPU then
    for _, gpu in ipairs(room.gpus) do
      if #picked * WHOLE_GPU < amount and room.used[gpu] == 0 then add(picked, gpu) end
    end
    return #picked * WHOLE_GPU == amount and picked or nil
  end
  for _, gpu in ipairs(room.gpus) do
    local used = room.used[gpu]
    if used + amount <= WHOLE_GPU and (not picked[1] or used > room.used[picked[1]]) then
      picked[1] = gpu
    end
  end
  return picked[1] and picked or nil
end

local function has_room(room, want)
  for kind, amount in pairs(want) do
    if room.blocked[kind] or (room.free[kind] or 0) < amount then return false end
  end
  return pick_gpus(room, want.GPU) ~= nil
end

local function gpu_share(want)
  return want.GPU and math.min(want.GPU, WHOLE_GPU)
end

-- Takes (sign 1) or gives back (-1) in this script's picture of a room.
local function draw(room, want, gpus, sign)
  for kind, amount in pairs(want) do room.free[kind] = room.free[kind] - sign * amount end
  for _, gpu in ipairs(gpus) do room.used[gpu] = room.used[gpu] + sign * gpu_share(want) end
end

-- The room as it would be if all in it were over, but for the groups that have a part of it: they
-- last until somebody removes them.
local function cleared(room)
  if not room.cleared then
    local free, used = {}, {}
    for kind, total in pairs(room.total) do free[kind] = total - (room.bundled[kind] or 0) end
    for _, gpu in ipairs(room.gpus) do used[gpu] = room.kept[gpu] or 0 end
    room.cleared = { id = room.id, name = room.name, labels = room.labels, total = room.total,
      free = free, used = used, gpus = room.gpus, blocked = {}, count = 0 }
  end
  return room.cleared
end

-- How full the room would be: the fullest of the kinds asked for.
local function utilisation(room, want)
  local worst = 0
  for kind, amount in pairs(want) do
    local share = (room.total[kind] - room.free[kind] + amount) / room.total[kind]
    if share > worst then worst = share end
  end
  return worst
end

local function before(a, b)
  for i = 1, #a do
    if a[i] ~= b[i] then return a[i] < b[i] end
  end
  return false
end
