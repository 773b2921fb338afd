-- needs: base placement holding lifecycle
-- id, cause, no_restart '1' or '0'
local actor = read_actor(ARGV[3])
if ARGV[5] == '0' and actor and actor.state ~= 'DEAD' and may_restart(actor) then
  if is_begun(actor) then out.node = placement_of(actor) end
  return answer() -- its process is to end; the record learns of it when that is reaped
end
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
if is_begun(actor) then
  out.node = placement_of(actor)
else
  out.was_pending = true
end
die(actor, ARGV[4])
place_waiting() -- it may have been in others' way
return answer()
