-- needs: base placement
-- age (ms)
local late = call('ZRANGEBYSCORE', key.placed, '-inf', now - tonumber(ARGV[3]))
for _, id in ipairs(late) do
  local actor = read_actor(id)
  if actor and actor.state == 'PLACED' then
    place_again(actor, actor.node)
  else
    call('ZREM', key.placed, id)
  end
end
if #late > 0 then place_waiting() end
return answer()
