-- needs: base placement
-- id, blob
-- What an UNREADY actor was created without: from here on it asks for its resources.
local id, blob = ARGV[3], ARGV[4]
local actor = read_actor(id)
if actor and actor.state == 'UNREADY' then
  local shape = parse_shape(actor.shape)
  local group = shape.group and read_group(shape.group)
  if shape.group and (not group or group.state == 'REMOVED') then
    return cjson.encode({ removed = shape.group })
  end
  move(actor, 'PENDING', 'blob', blob)
  wait_for_node(actor)
  place_waiting()
  actor = read_actor(id)
end
if actor and actor.state == 'PLACED' then
  out.placed = true
  if #out.placements == 0 then add(out.placements, placement_of(actor)) end
end
return answer()
