-- needs: base placement holding lifecycle
-- id, incarnation, node, cause
local id, incarnation, node, cause = unpack(ARGV, 3)
local actor = read_actor(id)
if actor and incarnation ~= '' and actor.incarnation == incarnation then
  out.died_now = true
  die(actor, cause)
end
if release(node, incarnation) then
  if actor and actor.state == 'DEAD' then bury(actor) end
  place_waiting()
elseif out.died_now then
  place_waiting()
end
return answer()
