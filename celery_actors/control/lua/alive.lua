-- needs: base
-- id, incarnation, pid
-- An actor whose last hold went while it was being made goes on to drain at once.
local id, incarnation, pid = unpack(ARGV, 3)
local actor = read_actor(id)
if not actor or actor.incarnation ~= incarnation then return 0 end
if actor.state == 'STARTING' then
  move(actor, actor.stopping and 'STOPPING' or 'ALIVE', 'pid', pid)
  return 1
end
local runs = actor.state == 'ALIVE' or actor.state == 'STOPPING'
return runs and call('HGET', key.actor(id), 'pid') == pid and 1 or 0
