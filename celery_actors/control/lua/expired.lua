-- needs: leases
-- Run often, by janitors: also takes the names of records that Redis has let expire off the index.
call('ZREMRANGEBYSCORE', key.actors, '-inf', now)
if is_paused() then return { {}, {} } end
return { call('ZRANGEBYSCORE', key.nodes, '-inf', now), call('ZRANGEBYSCORE', key.callers, '-inf', now) }
