-- The value of an object, or a place among those who wait for it: in one step, so that a
-- commit between the two can't be missed.  Who takes a place asks the object's owner, which knows
-- of calls that will never be committed.
-- ARGV: result key, waiters key, field, channel, object id (hex), ttl (ms), owner's channel
local value = redis.call('HGET', ARGV[1], ARGV[3])
if value then
  redis.call('PEXPIRE', ARGV[1], ARGV[6])
  return value
end
local entry = ARGV[4] .. ' ' .. ARGV[5] .. ' '
local waiting = redis.call('HGET', ARGV[2], ARGV[3]) or ''
if not string.find(waiting, entry, 1, true) then
  redis.call('HSET', ARGV[2], ARGV[3], waiting .. entry)
  redis.call('PUBLISH', ARGV[7], 'A' .. ARGV[5])
end
redis.call('PEXPIRE', ARGV[2], ARGV[6])
return false
