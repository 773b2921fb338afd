-- needs: base placement holding lifecycle
-- id, incarnation, cause, error or ''
local id, incarnation, cause, failure = unpack(ARGV, 3)
local actor = read_actor(id)
if not actor then return 0 end
if actor.state == 'DEAD' then -- said before, and the answer was lost
  local ended = call('HMGET', key.actor(id), 'ended', 'cause')
  return ended[1] == incarnation and ended[2] == cause and 1 or 0
end
if actor.incarnation ~= incarnation or not is_begun(actor) then return 0 end
die(actor, cause, failure)
return 1
