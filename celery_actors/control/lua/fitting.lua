-- How the bundles of a placement group are laid out on nodes. Needs rooms.lua.
--
-- A search in depth: the bundles with the fewest nodes first, for each the node that its strategy
-- likes best. It finds a layout where there is one, unless that takes more than MOST_TRIES.

local MOST_TRIES = 300

-- Which nodes a bundle may go to, and which are liked best; `on`: the group's bundles there so far.
local STRATEGIES = {
  PACK = { likes = function(on) return -on end },
  SPREAD = { likes = function(on) return on end },
  STRICT_PACK = {
    likes = function(on) return -on end,
    allows = function(on, laid) return on > 0 or laid == 0 end,
  },
  STRICT_SPREAD = {
    likes = function() return 0 end,
    allows = function(on) return on == 0 end,
  },
}

-- The bundles of a shape that have to be laid out, and where the others lie (number by node).
local function bundles_to_fit(shape)
  local items, on, laid = {}, {}, 0
  local nodes = {}
  local source = shape
  if shape.again then
    local group = call('HMGET', key.group(shape.again), 'shape', 'nodes')
    source, nodes = cjson.decode(group[1]), cjson.decode(group[2])
  end
  for place, raw in ipairs(source.bundles) do
    local node = nodes[place]
    if node and node ~= '' then
      on[node], laid = (on[node] or 0) + 1, laid + 1
    else
      local labels = source.labels and source.labels[place]
      add(items, { index = place - 1, raw = raw, want = amounts(raw), labels = labels,
        text = cjson.encode({ raw, labels or {} }) })
    end
  end
  return items, on, laid, source.strategy
end

-- Orders the bundles; false when one of them, or all together, cannot have room.
local function prepare(items, nodes)
  local asked, free = {}, {}
  for _, item in ipairs(items) do
    item.able, item.share = 0, 0
    for _, node in ipairs(nodes) do
      if has_labels(node, item.labels) and has_room(node, item.want) then
        item.able = item.able + 1
        item.share = math.max(item.share, utilisation(node, item.want))
      end
    end
    if item.able == 0 then return false end
    for kind, amount in pairs(item.want) do asked[kind] = (asked[kind] or 0) + amount end
  end
  for kind, amount in pairs(asked) do
    for _, node in ipairs(nodes) do
      if not node.blocked[kind] then free[kind] = (free[kind] or 0) + (node.free[kind] or 0) end
    end
    if (free[kind] or 0) < amount then return false end
  end
  table.sort(items, function(a, b)
    return before({ a.able, -a.share, a.text, a.index }, { b.able, -b.share, b.text, b.index })
  end)
  return true
end

-- How many of the bundles the node could take, one after the other.
local function capacity(node, items)
  local taken = {}
  for _, item in ipairs(items) do
    if has_labels(node, item.labels) and has_room(node, item.want) then
      local gpus = pick_gpus(node, item.want.GPU)
      draw(node, item.want, gpus, 1)
      add(taken, { item.want, gpus })
    end
  end
  for _, each in ipairs(taken) do draw(node, each[1], each[2], -1) end
  return #taken
end

local function fit_by(strategy, items, nodes, on, laid)
  local rule = STRATEGIES[strategy]
  local found, tries = {}, 0

  local function candidates(item)
    local ranked = {}
    for _, node in ipairs(nodes) do
      local here = on[node.id] or 0
      if (not rule.allows or rule.allows(here, laid)) and has_labels(node, item.labels)
        and has_room(node, item.want) then
        add(ranked, { rule.likes(here), -node.capacity, utilisation(node, item.want), node.count,
          node.name, node = node })
      end
    end
    table.sort(ranked, before)
    return ranked
  end

  -- `failed`: nodes on which an equal bundle has been tried with all else as it is.
  local function search(depth, failed)
    local item = items[depth]
    if not item then return true end
    for _, candidate in ipairs(candidates(item)) do
      local node = candidate.node
      if not failed[node.id] then
        tries = tries + 1
        if tries > MOST_TRIES then return false end
        local gpus = pick_gpus(node, item.want.GPU)
        draw(node, item.want, gpus, 1)
        on[node.id], laid = (on[node.id] or 0) + 1, laid + 1
        found[item.index] = { node = node, gpus = gpus, item = item }
        local below = {}
        if items[depth + 1] and items[depth + 1].text == item.text then
          for id in pairs(failed) do below[id] = true end
        end
        if search(depth + 1, below) then return true end
        draw(node, item.want, gpus, -1)
        on[node.id], laid = on[node.id] - 1, laid - 1
        found[item.index] = nil
        failed[node.id] = true
      end
    end
    return false
  end

  for _, node in ipairs(nodes) do
    node.capacity = (strategy == 'PACK' or strategy == 'STRICT_PACK') and capacity(node, items) or 0
  end
  return search(1, {}) and found or nil
end

-- Lays out the bundles of a group: index -> { node, gpus, item }, taken from the nodes; or nil, and
-- nothing is taken.
local function fit_bundles(shape, nodes)
  local items, on, laid, strategy = bundles_to_fit(shape)
  if strategy == 'STRICT_SPREAD' and #items > #nodes then return nil end
  if not prepare(items, nodes) then return nil end
  return strategy == 'SPREAD' and fit_by('STRICT_SPREAD', items, nodes, on, laid)
    or fit_by(strategy, items, nodes, on, laid)
end
