-- needs: base record
-- id, incarnation, node, claim
-- A placement is begun once, however often its message arrives; the claim, new with each call of
-- begin(), tells a repeated message from one call whose answer was lost with its connection.
local id, incarnation, node, claim = unpack(ARGV, 3)
local actor = read_actor(id)
if not actor or actor.incarnation ~= incarnation or actor.node ~= node then return false end
if actor.state == 'PLACED' then
  call('ZREM', key.placed, id)
  move(actor, 'STARTING', 'claim', claim)
elseif actor.state ~= 'STARTING' or call('HGET', key.actor(id), 'claim') ~= claim then
  return false
end
local more = call('HMGET', key.actor(id), 'blob', 'attempts', 'unknown')
local namespace = call('HGET', key.job(actor.job), 'namespace')
return { record_row(id), more[1] or '', namespace or '', more[2] or '', more[3] or '' }
