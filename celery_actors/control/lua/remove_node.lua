-- needs: base placement holding lifecycle
-- id, cause
-- What it had begun is dead, or is begun again elsewhere where it may be. What it had only been given
-- goes back into the line. Neither, of what may run nowhere else.
local id, cause = ARGV[3], ARGV[4]
if call('EXISTS', key.node(id)) == 0 then return answer() end
local name = call('HGET', key.node(id), 'name')
local reservations = call('HGETALL', key.reservations(id))
call('ZREM', key.nodes, id) -- first of all: nothing is placed on it from here on
forget_rooms()
if call('HGET', key.node_names, name) == id then call('HDEL', key.node_names, name) end
for i = 1, #reservations, 2 do
  local actor = read_actor(cjson.decode(reservations[i + 1]).actor)
  if actor and actor.incarnation == reservations[i] then
    local shape = parse_shape(actor.shape)
    local movable = shape.soft or not shape.node
    if actor.state == 'PLACED' and movable then
      place_again(actor)
    elseif is_begun(actor) and movable and may_restart(actor) then
      restart(actor, cause, {}, true)
    else
      local begun = is_begun(actor)
      die(actor, cause)
      add(out.died, actor.id)
      if begun then bury(actor) end
    end
  elseif actor and actor.state == 'DEAD' then -- its process was not reaped yet, nor its mailbox
    add(out.died, actor.id)
    bury(actor)
  end
end
-- What may run on this node alone waits in vain from here on: no other will have its id.
for _, text in ipairs(call('SMEMBERS', key.shapes)) do
  local shape = parse_shape(text)
  if shape.node == id and not shape.soft then
    for _, waiting in ipairs(call('ZRANGE', key.waiting(text), 0, -1)) do
      die(read_actor(waiting), cause)
      add(out.died, waiting)
    end
  end
end
lose_bundles(id)
local callers = call('SMEMBERS', key.node_callers(id))
call('DEL', key.node(id), key.reservations(id), key.node_callers(id))
for _, caller in ipairs(callers) do end_caller(caller) end
tell_all('N' .. id)
place_waiting()
tidy_line()
tidy_pulse()
return answer()
