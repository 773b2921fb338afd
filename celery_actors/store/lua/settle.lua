-- needs: waiters
-- Store values that the owner of objects gives them itself (no actor commits them), and tell who
-- waits.  An object's first value stays: an actor may have committed one before.
--
-- ARGV: ttl (ms), then for each object: result key, waiters key, field, value
for at = 2, #ARGV, 4 do
  local key, waiters, field = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  redis.call('HSETNX', key, field, ARGV[at + 3])
  redis.call('PEXPIRE', key, ARGV[1])
  tell_waiters(waiters, field)
end
return 'OK'
