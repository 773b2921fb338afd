-- needs: base placement holding lifecycle
-- id, cause
local actor = read_actor(ARGV[3])
if not actor or actor.state == 'DEAD' then
  out.already_dead = true
  if actor and actor.node ~= '' then -- not reaped yet: its process may be still to be killed
    local ended = call('HGET', key.actor(actor.id), 'ended')
    if call('HEXISTS', key.reservations(actor.node), ended) == 1 then
      out.node = placement_of(actor, ended)
    end
  end
  return answer()
end
if actor.state == 'PENDING' or actor.state == 'PLACED' then
  out.was_pending = true
else
  out.node = placement_of(actor)
end
die(actor, ARGV[4])
place_waiting() -- it may have been in others' way
return answer()
