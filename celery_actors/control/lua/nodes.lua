-- needs: leases
-- Live nodes: id, end of the lease, number of reservations, and the record's fields and values.
local found = {}
local ends = call('ZRANGEBYSCORE', key.nodes, running_from(), '+inf', 'WITHSCORES')
for i = 1, #ends, 2 do
  add(found, { ends[i], ends[i + 1], call('HLEN', key.reservations(ends[i])),
    call('HGETALL', key.node(ends[i])) })
end
return found
