-- needs: base
-- node, patience (ms)
-- Tells a node what messages to it may have been lost, by comparing what is reserved on it with the
-- records: what it has not begun, what it has not ended, what it has not told to drain. The last is
-- repeated at doubling intervals, since a call may take long.
local id, patience = ARGV[3], tonumber(ARGV[4])
local result = { unstarted = {}, stale = {}, stopping = {} }
local flat = call('HGETALL', key.reservations(id))
for i = 1, #flat, 2 do
  local incarnation = flat[i]
  -- A node may have hundreds, and nearly all are well: no more is read than tells that.
  local actor_id = string.match(flat[i + 1], '"actor":"(%x+)"')
  local current, state, stopping, since, stopping_since, told = unpack(call('HMGET',
    key.actor(actor_id), 'incarnation', 'state', 'stopping', 'since', 'stopping_since', 'told'))
  local late = tonumber(since or 0) <= now - patience
  if current ~= incarnation then
    if late then
      local actor = read_actor(actor_id) or { kind = 'actor', caller = '' }
      add(result.stale, { actor_id, incarnation, id, actor.kind, actor.caller })
    end
  elseif state == 'PLACED' then
    if late then add(result.unstarted, placement_of(read_actor(actor_id))) end
  elseif stopping then
    local began = tonumber(stopping_since)
    local last = tonumber(told or began)
    if now - last >= math.max(patience, last - began) then
      call('HSET', key.actor(actor_id), 'told', now)
      add(result.stopping, actor_id)
    end
  end
end
return cjson.encode(result)
