-- needs: groups
-- How actors, callers and jobs end. Needs base.lua, placement.lua and holding.lua.

local KEEP_DEAD_MS = 600000

-- An actor's record is over: dead, and no reservation is left. It stays readable for a while.
local function bury(actor)
  call('SREM', key.job_actors(actor.job), actor.id)
  if call('HGET', key.job(actor.job), 'forgotten') and not actor.detached then
    call('DEL', key.actor(actor.id), key.cursors(actor.id))
    call('ZREM', key.actors, actor.id)
  else
    local ends = now + KEEP_DEAD_MS
    call('PEXPIRE', key.actor(actor.id), KEEP_DEAD_MS)
    call('ZADD', key.job_dead(actor.job), ends, actor.id)
    call('ZREMRANGEBYSCORE', key.job_dead(actor.job), '-inf', now)
    call('PEXPIRE', key.job_dead(actor.job), KEEP_DEAD_MS)
    call('ZADD', key.actors, ends, actor.id)
    call('ZREMRANGEBYSCORE', key.actors, '-inf', now)
    if call('ZCOUNT', key.actors, '+inf', '+inf') == 0 then call('PEXPIRE', key.actors, KEEP_DEAD_MS) end
  end
  if call('HGET', key.job(actor.job), 'forgotten')
    and call('EXISTS', key.job_actors(actor.job)) == 0 then
    call('UNLINK', key.of_job(actor.job)) -- may be large
    call('ZREM', key.jobs, actor.job)
  end
end

local function is_begun(actor)
  return actor.state == 'STARTING' or actor.state == 'ALIVE' or actor.state == 'STOPPING'
end

-- To DEAD, whatever it was. Its incarnation leaves the record in the same script, so that from here
-- on the store refuses its commits. What a begun process holds stays reserved until it is reaped;
-- what never began has no process, so its reservation goes at once.
local function die(actor, cause, failure)
  local was = actor.state
  local incarnation = actor.incarnation
  if was == 'PENDING' then leave_line(actor) end
  if was == 'PLACED' then
    release(actor.node, incarnation)
    call('ZREM', key.placed, actor.id)
  end
  move(actor, 'DEAD', 'cause', cause, 'incarnation', '', 'ended', incarnation, 'error', failure or '')
  call('HDEL', key.actor(actor.id), 'blob', 'handle', 'attempts', 'unknown')
  free_name(actor)
  forget_holds(actor)
  tell_all('D' .. actor.id)
  if was == 'UNREADY' or was == 'PENDING' or was == 'PLACED' then bury(actor) end
end

-- No handle is left anywhere. What has no process yet is cancelled: a process releases its hold in
-- the mailbox, behind its calls, so that an actor which never ran is unheld only when all who could
-- have called it have ended.
local function stop_unheld(actor)
  if is_begun(actor) then
    start_stopping(actor)
    add(out.stopping, actor.id)
  else
    die(actor, 'no process that had a handle to it was left when it was to start')
    add(out.cancelled, actor.id)
  end
end

-- Does the caller's cursor at the actor cover the call (a decimal string)?
local function is_finished(id, caller, sequence)
  local cursor = call('HGET', key.cursors(id), caller)
  if not cursor or tonumber(string.match(cursor, '^%d+')) < tonumber(sequence) then return false end
  -- Of those up to the cursor, the ones that still run are named behind it (protocol/cursors.py).
  return not string.find(cursor .. ';', ';' .. sequence .. ';', 1, true)
end

-- May an actor whose process was lost be begun again?
local function may_restart(actor)
  if actor.kind ~= 'actor' then return false end
  local most = tonumber(actor.max_restarts)
  return most < 0 or tonumber(actor.restarts) < most
end

-- How often calls were begun that no process has finished: those of before, and the interrupted.
local function count_attempts(actor, interrupted)
  local before = call('HGET', key.actor(actor.id), 'attempts')
  local counts = before and cjson.decode(before) or {}
  for _, id in ipairs(interrupted) do counts[id] = (counts[id] or 0) + 1 end
  for id in pairs(counts) do
    local sequence = string.format('%.0f', tonumber(string.sub(id, 17), 16))
    if is_finished(actor.id, string.sub(id, 1, 16), sequence) then counts[id] = nil end
  end
  return cjson.encode(counts)
end

-- Begins an actor again whose process was lost. Its reservation is released already. Its incarnation
-- leaves the record here, before the cursors are read: what the lost process had not committed by
-- now it never will. Calls wait in the mailbox meanwhile.
-- `unknown`: what it had begun was lost with its node.
local function restart(actor, cause, interrupted, unknown)
  move(actor, 'PENDING', 'node', '', 'incarnation', '', 'gpus', '', 'pid', '', 'cause', cause,
    'restarts', tonumber(actor.restarts) + 1, 'attempts', count_attempts(actor, interrupted),
    'unknown', unknown and '1' or '')
  wait_for_node(actor)
end

-- Has the destination finished the call that carries the handle, or will it never?
-- A hold that is not of a call ends with its owner.
local function settled(caller, sequence, destination)
  if not sequence then return true end
  local state = call('HGET', key.actor(destination), 'state')
  if not state or state == 'DEAD' then return true end
  return is_finished(destination, caller, sequence)
end

-- Does the hold belong to a stored value of the owner's that others still have refs to? It stays, as
-- the value does: whoever releases that drops it. (Sequences of what generators yield are too large
-- for Lua's numbers.)
local function of_kept_value(owner, rest)
  local sequence, index = string.match(rest, '^o(%d+)%.(%d+)$')
  if not sequence or #sequence > 15 then return false end
  return call('EXISTS', key.holds(string.format('x%s%016x%04x', owner, sequence, index))) == 1
end

-- Drops those of the owner's holds of which `is_over(owner, sequence, destination)` is true; the last
-- two are nil for a hold that is not of a handle inside a call.
local function drop_owned(owner, is_over)
  for _, entry in ipairs(call('SMEMBERS', key.owned(owner))) do
    local id, rest = split_entry(entry)
    local sequence, destination = string.match(rest, '^c(%d+):(%x+)$')
    if of_kept_value(owner, rest) then
      -- It stays.
    elseif string.sub(id, 1, 1) == 'x' then
      if is_over(owner, sequence, destination) then drop_borrow(id, owner, rest) end
    elseif is_over(owner, sequence, destination) then
      drop_hold(id, owner, rest)
      local actor = read_actor(id)
      if actor and actor.state == 'UNREADY' and actor.caller == owner then
        die(actor, 'its creator ended before the arguments of its constructor were there')
        add(out.cancelled, id)
      elseif actor and unheld(actor) and not actor.stopping then
        stop_unheld(actor)
      end
    end
  end
end

local function end_job(job)
  if call('HGET', key.job(job), 'ended') then return end
  call('HSET', key.job(job), 'ended', now)
  call('ZADD', key.jobs, now, job)
  for _, id in ipairs(call('SMEMBERS', key.job_actors(job))) do
    local actor = read_actor(id)
    if actor and not actor.detached and actor.state ~= 'DEAD' then
      if is_begun(actor) then
        add(out.stop, placement_of(actor))
      else
        add(out.cancelled, id)
      end
      die(actor, 'its job ended: the driver is gone')
    end
  end
  close_groups_of_job(job, die)
  drop_owned(job, settled)
end

-- Safe to run again: what is gone already is left alone, and calls still queued are looked at anew.
local function end_caller(id)
  local record = call('HMGET', key.caller(id), 'job', 'node', 'driver')
  if record[1] then
    call('DEL', key.caller(id), key.caller_gauges(id))
    call('ZREM', key.callers, id)
    call('SREM', key.job_gauges(record[1]), id)
    if record[2] ~= '' then call('SREM', key.node_callers(record[2]), id) end
    tell_all('C' .. id)
    -- The job's own actors first: they are to be killed, not left to drain.
    if record[3] == '1' then end_job(record[1]) end
    close_groups_of_caller(id, record[1], die)
  end
  drop_owned(id, settled)
  if call('EXISTS', key.owned(id)) == 1 then
    call('SADD', key.lingering, id)
  else
    call('SREM', key.lingering, id)
  end
end
