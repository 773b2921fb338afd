-- needs: base
-- Leases, and when they may be judged. Needs base.lua.
--
-- While Redis is away, or a replica, nobody can renew. Guarantee: no lease ends because of that.
-- Each renewal notes its time (the pulse). While the last is more than half of a lease ago, no lease
-- has ended, and the first renewal after such a pause gives everybody a new lease. A living node or
-- driver renews every third of a lease: so long a pause is not the fault of one of them.
--
-- A full Redis renews: see need_no_memory().

local function pulse()
  local at, lease = unpack(call('HMGET', key.pulse, 'at', 'lease'))
  return tonumber(at), tonumber(lease)
end

local function is_paused()
  local at, lease = pulse()
  return at ~= nil and now - at > lease / 2
end

-- To be called first in a script that only changes what is there. A full Redis refuses a script at
-- its first command that may need memory, unless the script has given a command that writes and needs
-- none. Otherwise leases would end by chance where Redis is full at times: some renewals would find
-- room, and others none.
local function need_no_memory() call('ZREM', key.nodes, '') end

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
