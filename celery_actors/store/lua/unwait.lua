-- Take back a place among those who wait for an object (see lookup.lua).
-- ARGV: waiters key, field, channel, object id (hex)
local waiting = redis.call('HGET', ARGV[1], ARGV[2])
if not waiting then return 0 end
local entry = ARGV[3] .. ' ' .. ARGV[4] .. ' '
local first, last = string.find(waiting, entry, 1, true)
if not first then return 0 end
local rest = string.sub(waiting, 1, first - 1) .. string.sub(waiting, last + 1)
if rest == '' then
  redis.call('HDEL', ARGV[1], ARGV[2])
else
  redis.call('HSET', ARGV[1], ARGV[2], rest)
end
return 1
