-- Who keeps an actor alive. Needs base.lua.
--
-- A hold is in two sets, by actor and by owner, written together. Its token is owner .. '/' .. rest.
-- Guarantee: an actor that has no hold and is not detached is on its way out, and no hold written
-- later brings it back.

--
-- Objects are held likewise, by processes to which a ref has come and by objects with a ref inside,
-- under 'x' and the object's id. Who made an object decides what follows when nobody holds it.

local function split_token(token) return string.match(token, '^(%x+)/(.+)$') end

-- May the owner hold anything? What has ended may not: nobody would ever release it.
local function owner_lives(owner, rest)
  if rest == 'job' then
    local job = call('HMGET', key.job(owner), 'driver', 'ended')
    return job[1] and not job[2]
  end
  return call('EXISTS', key.caller(owner)) == 1
end

local function write_hold(id, owner, rest)
  call('SADD', key.holds(id), owner .. '/' .. rest)
  call('SADD', key.owned(owner), id .. rest)
end

local function drop_hold(id, owner, rest)
  call('SREM', key.holds(id), owner .. '/' .. rest)
  if call('SREM', key.owned(owner), id .. rest) == 1
    and call('EXISTS', key.owned(owner)) == 0 then
    call('SREM', key.lingering, owner)
  end
end

-- An entry of an owner's set: the actor or object, and the rest of the token.
local function split_entry(entry)
  local length = string.sub(entry, 1, 1) == 'x' and 37 or 32
  return string.sub(entry, 1, length), string.sub(entry, length + 1)
end

local function drop_borrow(id, owner, rest)
  drop_hold(id, owner, rest)
  if call('EXISTS', key.holds(id)) == 0 then tell(string.sub(id, 2, 17), 'F' .. string.sub(id, 2)) end
end

local function forget_holds(actor)
  for _, token in ipairs(call('SMEMBERS', key.holds(actor.id))) do
    local owner, rest = split_token(token)
    drop_hold(actor.id, owner, rest)
  end
end

local function unheld(actor)
  return not actor.detached and actor.state ~= 'DEAD'
    and call('EXISTS', key.holds(actor.id)) == 0
end

-- From here on holds are refused. An actor whose constructor still runs, or that still waits for a
-- node, keeps its state: calls made before are in its mailbox and are to run; it drains after.
local function start_stopping(actor)
  if actor.stopping then return end
  actor.stopping = true
  free_name(actor)
  call('HSET', key.actor(actor.id), 'stopping', '1', 'stopping_since', now)
  if actor.state == 'ALIVE' then move(actor, 'STOPPING') end
end
