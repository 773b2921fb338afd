-- needs: leases
-- id, lease (ms)
local id, lease = ARGV[3], tonumber(ARGV[4])
if call('EXISTS', key.node(id)) == 0 then return 0 end
need_no_memory()
note_renewal(lease)
call('ZADD', key.nodes, now + lease, id)
return 1
