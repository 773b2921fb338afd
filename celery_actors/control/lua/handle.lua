-- needs: base
-- id
return call('HGET', key.actor(ARGV[3]), 'handle')
