-- needs: base
-- id, lease (ms)
if call('EXISTS', key.caller(ARGV[3])) == 0 then return 0 end
call('ZADD', key.callers, now + tonumber(ARGV[4]), ARGV[3])
return 1
