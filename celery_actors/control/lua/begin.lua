-- needs: base record
-- id, incarnation, node, caller
-- A placement is begun once, however often its message arrives. The id of the caller that its process
-- will be tells a repeated message from a repeated attempt: the answer was lost, or what follows could
-- not be done.
local id, incarnation, node, caller = unpack(ARGV, 3)
local actor = read_actor(id)
if not actor or actor.incarnation ~= incarnation or actor.node ~= node then return false end
if actor.state == 'PLACED' then
  call('ZREM', key.placed, id)
  move(actor, 'STARTING', 'claim', caller)
elseif actor.state ~= 'STARTING' or call('HGET', key.actor(id), 'claim') ~= caller then
  return false
end
local more = call('HMGET', key.actor(id), 'blob', 'attempts', 'unknown')
local namespace = call('HGET', key.job(actor.job), 'namespace')
return { record_row(id), more[1] or '', namespace or '', more[2] or '', more[3] or '' }
