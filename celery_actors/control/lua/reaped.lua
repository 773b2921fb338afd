-- needs: base placement holding lifecycle
-- id, incarnation, node, cause, interrupted (JSON: ids of calls begun and not committed)
local id, incarnation, node, cause, interrupted = unpack(ARGV, 3)
local actor = read_actor(id)
local is_current = actor and incarnation ~= '' and actor.incarnation == incarnation
if is_current and is_begun(actor) and may_restart(actor) then
  out.died_now = true
  release(node, incarnation)
  restart(actor, cause, cjson.decode(interrupted), false)
  place_waiting()
  return answer()
end
if is_current then
  out.died_now = true
  die(actor, cause)
end
if release(node, incarnation) then
  if actor and actor.state == 'DEAD' then bury(actor) end
  place_waiting()
elseif out.died_now then
  place_waiting()
end
out.over = not actor or actor.state == 'DEAD'
return answer()
