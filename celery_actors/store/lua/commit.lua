-- needs: waiters
-- One commit of an actor: results, plain results, pushes, cursors, in one step.
--
-- Guarantee: either all of it happens, or (another incarnation holds the record, or the
-- number is not the next) none.  A commit is retried after a lost connection with the
-- same number: an equal number from the same incarnation answers OK without doing it
-- again.  The number is written last, so that a script that ends with an error on the way is
-- repeated whole, and pushes come behind the writes that a full Redis refuses.  (What a
-- transaction around this script stores: see committer.py.)
--
-- ARGV: record key, incarnation, number, cursor key, ttl (ms),
--       blocks, cursors, pushes, plain  (counts), then
--       a block:  result key, waiters key, n, m, n times field, value, m times the field of
--                 a value that the transaction around this script stores itself
--       a cursor: caller, sequence
--       a push:   channel, payload
--       a plain result: key, ttl (s; 0: none), value
local record, incarnation, number, cursor_key = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local ttl = ARGV[5]
local held = redis.call('HGET', record, 'incarnation')
if held ~= incarnation then
  return 'REFUSED incarnation ' .. (held or 'none')
end
local last = tonumber(redis.call('HGET', cursor_key, '#') or '0')
if number == last then
  return 'OK'
end
if number ~= last + 1 then
  return 'REFUSED number ' .. tostring(last)
end
-- HSET in parts: a Lua call takes at most some 8,000 arguments.
local function write(key, first, last)
  for part = first, last, 4000 do
    redis.call('HSET', key, unpack(ARGV, part, math.min(part + 3999, last)))
  end
end
local at = 10
for _ = 1, tonumber(ARGV[6]) do
  local key, waiters = ARGV[at], ARGV[at + 1]
  local first = at + 4
  local beside = first + 2 * tonumber(ARGV[at + 2])
  at = beside + tonumber(ARGV[at + 3])
  write(key, first, beside - 1)
  redis.call('PEXPIRE', key, ttl)
  if redis.call('EXISTS', waiters) == 1 then
    for field = first, beside - 1, 2 do
      tell_waiters(waiters, ARGV[field])
    end
    for field = beside, at - 1 do
      tell_waiters(waiters, ARGV[field])
    end
  end
end
local cursors = at
at = at + 2 * tonumber(ARGV[7])
if tonumber(ARGV[7]) > 0 then
  write(cursor_key, cursors, cursors + 2 * tonumber(ARGV[7]) - 1)
end
for _ = 1, tonumber(ARGV[8]) do
  redis.call('PUBLISH', ARGV[at], ARGV[at + 1])
  at = at + 2
end
for _ = 1, tonumber(ARGV[9]) do
  if ARGV[at + 1] == '0' then
    redis.call('SET', ARGV[at], ARGV[at + 2])
  else
    redis.call('SETEX', ARGV[at], ARGV[at + 1], ARGV[at + 2])
  end
  redis.call('PUBLISH', ARGV[at], ARGV[at + 2])
  at = at + 3
end
redis.call('HSET', cursor_key, '#', number)
return 'OK'
