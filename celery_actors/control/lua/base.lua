-- What every script starts with: the clock, the names of the keys, the reading of a record.
-- Times are milliseconds of Redis's clock. Amounts of resources are decimal strings of 1/10000:
-- HINCRBY adds them exactly, and only comparisons see them as Lua numbers.

local prefix = ARGV[1]
local call = redis.call
local stamp = call('TIME')
local now = tonumber(stamp[1]) * 1000 + math.floor(tonumber(stamp[2]) / 1000)

local key = {
  nodes = prefix .. 'nodes',           -- zset: node id by the end of its lease
  node_names = prefix .. 'node-names', -- hash: name -> node id
  pulse = prefix .. 'pulse',           -- hash: when a lease was last renewed, and how long it was
  callers = prefix .. 'callers',       -- zset: caller id by the end of its own lease
  lingering = prefix .. 'lingering',   -- set: ended callers whose queued calls still hold actors
  jobs = prefix .. 'jobs',             -- zset: job id by when it ended, +inf while it runs
  actors = prefix .. 'actors',         -- zset: actor id by the end of its record, +inf until reaped
  shapes = prefix .. 'shapes',         -- set: the shapes that requests wait with
  placed = prefix .. 'placed',         -- zset: actors placed and not begun, by when they were placed
  order = prefix .. 'order',           -- counter: a request's place in the line
  names = prefix .. 'names',           -- hash: length of namespace, ':', namespace, name -> actor id
  groups = prefix .. 'groups',         -- zset: placement group by the end of its record, +inf until removed
  group_names = prefix .. 'group-names', -- hash: the same -> placement group
}
function key.node(id) return prefix .. 'node:' .. id end
function key.reservations(id) return prefix .. 'node:' .. id .. ':reservations' end
function key.node_callers(id) return prefix .. 'node:' .. id .. ':callers' end
function key.bundles(id) return prefix .. 'node:' .. id .. ':bundles' end
function key.caller(id) return prefix .. 'caller:' .. id end
function key.job(id) return prefix .. 'job:' .. id end
function key.job_actors(id) return prefix .. 'job:' .. id .. ':actors' end
function key.job_dead(id) return prefix .. 'job:' .. id .. ':dead' end
function key.job_definitions(id) return prefix .. 'job:' .. id .. ':definitions' end
function key.job_packages(id) return prefix .. 'job:' .. id .. ':packages' end
function key.job_calls(id) return prefix .. 'job:' .. id .. ':calls' end -- list: of ended processes
function key.job_metrics(id) return prefix .. 'job:' .. id .. ':metrics' end -- hash: series -> sum
function key.job_gauges(id) return prefix .. 'job:' .. id .. ':gauges' end -- set: callers that have any
function key.caller_gauges(id) return prefix .. 'caller:' .. id .. ':gauges' end -- hash: series -> value
-- What is kept with a job's own record, and deleted with it.
function key.of_job(id)
  return key.job(id), key.job_definitions(id), key.job_calls(id), key.job_metrics(id),
    key.job_gauges(id), key.job_packages(id)
end
function key.job_groups(id) return prefix .. 'job:' .. id .. ':groups' end
function key.group(id) return prefix .. 'group:' .. id end
function key.bundle(token) return prefix .. 'group:' .. token end -- the group's id ':' the bundle's index
function key.actor(id) return prefix .. 'actor:' .. id end
function key.holds(id) return prefix .. 'holds:' .. id end
function key.owned(owner) return prefix .. 'owned:' .. owner end
function key.waiting(shape) return prefix .. 'waiting:' .. shape end
function key.cursors(id) return prefix .. 'cur:' .. id end -- the store's; read here, and deleted with the record

-- What a script tells its caller beyond its own answer; Python reads the five lists by name.
local out = { placements = {}, died = {}, stopping = {}, stop = {}, cancelled = {} }
local function add(list, item) list[#list + 1] = item end
local function answer() return cjson.encode(out) end

-- Hints only: whoever receives one reads the record again.
local function tell_all(what) call('PUBLISH', prefix .. 'cluster', what) end
local function tell(caller, what) call('PUBLISH', prefix .. 'p:' .. caller, what) end

local FIELDS = { 'state', 'incarnation', 'node', 'job', 'caller', 'kind', 'detached', 'stopping',
  'shape', 'order', 'name', 'namespace', 'restarts', 'max_restarts' }

-- The part of an actor's record that scripts decide by; nil when there is none.
local function read_actor(id)
  local values = call('HMGET', key.actor(id), unpack(FIELDS))
  if not values[1] then return nil end
  local actor = { id = id }
  for i, field in ipairs(FIELDS) do actor[field] = values[i] end
  actor.detached = actor.detached == '1'
  actor.stopping = actor.stopping == '1'
  return actor
end

-- The only way that a state changes. ALLOWED is made from the table in states.py.
local function move(actor, state, ...)
  if not ALLOWED[actor.state][state] then
    error('actor ' .. actor.id .. ': ' .. actor.state .. ' -> ' .. state .. ' is not in the table')
  end
  actor.state = state
  call('HSET', key.actor(actor.id), 'state', state, 'since', now, ...)
end

-- A name is for one living actor. It is free again as soon as its actor is on its way out, so that
-- whoever finds none by a name may create one.
-- The length first: both may hold any character.
local function name_field(namespace, name) return #namespace .. ':' .. namespace .. name end
local function free_name(actor)
  if not actor.name or actor.name == '' then return end
  local field = name_field(actor.namespace, actor.name)
  if call('HGET', key.names, field) == actor.id then call('HDEL', key.names, field) end
end

local GROUP_FIELDS = { 'state', 'job', 'caller', 'actor', 'name', 'namespace', 'detached', 'shape',
  'order', 'nodes', 'line' }

local function read_group(id)
  local values = call('HMGET', key.group(id), unpack(GROUP_FIELDS))
  if not values[1] then return nil end
  local group = { id = id }
  for i, field in ipairs(GROUP_FIELDS) do group[field] = values[i] end
  group.detached = group.detached == '1'
  return group
end

-- The only way that a placement group's state changes.
local function move_group(group, state, ...)
  if not GROUP_ALLOWED[group.state][state] then
    error('placement group ' .. group.id .. ': ' .. group.state .. ' -> ' .. state
      .. ' is not in the table')
  end
  group.state = state
  call('HSET', key.group(group.id), 'state', state, 'since', now, ...)
  tell_all('P' .. group.id)
end

-- The counter of the line's places starts anew once nobody has a place in it.
local function tidy_line()
  if call('EXISTS', key.shapes, key.placed) == 0 then call('DEL', key.order) end
end

local function placement_of(actor, incarnation)
  return { actor.id, incarnation or actor.incarnation, actor.node, actor.kind, actor.caller }
end
