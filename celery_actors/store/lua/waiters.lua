-- Tell those who wait for a value that it is there.
local function tell_waiters(waiters, field)
  local waiting = redis.call('HGET', waiters, field)
  if not waiting then return end
  for channel, oid in string.gmatch(waiting, '([^ ]+) ([^ ]+) ') do
    redis.call('PUBLISH', channel, 'W' .. oid)
  end
  redis.call('HDEL', waiters, field)
end
