-- needs: base placement
-- id, incarnation, '1' to give the CPUs back or '0' to take them again
-- Taking again does not wait: the node may be overcommitted until the next call ends.
local id, incarnation, blocks = ARGV[3], ARGV[4], ARGV[5] == '1'
local actor = read_actor(id)
if not actor or actor.incarnation ~= incarnation or actor.node == '' then return answer() end
local raw = call('HGET', key.reservations(actor.node), incarnation)
if not raw then return answer() end
local held = cjson.decode(raw)
local cpus = held.want.CPU
if not cpus or held.blocked == blocks then return answer() end
held.blocked = blocks
call('HSET', key.reservations(actor.node), incarnation, cjson.encode(held))
call('HINCRBY', key_of_room(actor.node, held), 'f:CPU', (blocks and '' or '-') .. cpus)
if blocks then place_waiting() end
return answer()
