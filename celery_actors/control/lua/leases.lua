-- needs: base
-- Leases, and when they may be judged. Needs base.lua.
--
-- While Redis is away, full, or a replica, nobody can renew. Guarantee: no lease ends because of
-- that. Whoever renews writes down when (the pulse); the first to renew after a pause in which nobody
-- did gives everybody a new lease, and while a pause lasts no lease has ended. A living node or driver
-- renews every third of a lease, so a pause of more than half of one is nobody's own fault.

local function pulse()
  local at, lease = unpack(call('HMGET', key.pulse, 'at', 'lease'))
  return tonumber(at), tonumber(lease)
end

local function is_paused()
  local at, lease = pulse()
  return at ~= nil and now - at > lease / 2
end

-- To be called before the caller's own lease is written.
local function note_renewal(lease)
  if is_paused() then
    for _, leases in ipairs({ key.nodes, key.callers }) do
      for _, id in ipairs(call('ZRANGE', leases, 0, -1)) do
        call('ZADD', leases, 'GT', now + lease, id)
      end
    end
  end
  call('HSET', key.pulse, 'at', now, 'lease', lease)
end

-- The lowest end of a lease that counts as running, for ZRANGEBYSCORE.
local function running_from() return is_paused() and '-inf' or '(' .. now end

-- The pulse goes with the last lease.
local function tidy_pulse()
  if call('EXISTS', key.nodes, key.callers) == 0 then call('DEL', key.pulse) end
end
