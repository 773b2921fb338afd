-- needs: leases placement
-- id, name, host, pid, labels, lease (ms), totals (JSON kind -> amount), gpu ids (JSON), cores, address
-- The name of a node whose lease has ended is free: its janitor may be slower than its successor.
local id, name, host, pid, labels, lease, totals, gpus, cores, address = unpack(ARGV, 3)
note_renewal(tonumber(lease))
local holder = call('HGET', key.node_names, name)
if holder and holder ~= id then
  local ends = call('ZSCORE', key.nodes, holder)
  if ends and tonumber(ends) > now then return cjson.encode({ taken = holder }) end
end
local is_new = call('EXISTS', key.node(id)) == 0
call('HSET', key.node_names, name, id)
call('ZADD', key.nodes, now + tonumber(lease), id)
if is_new then
  call('HSET', key.node(id), 'name', name, 'host', host, 'pid', pid, 'labels', labels,
    'cores', cores, 'address', address, 'joined', now)
  for kind, amount in pairs(cjson.decode(totals)) do
    call('HSET', key.node(id), 't:' .. kind, amount, 'f:' .. kind, amount)
  end
  for _, gpu in ipairs(cjson.decode(gpus)) do call('HSET', key.node(id), 'g:' .. gpu, 0) end
  tell_all('N' .. id)
  place_waiting()
end
return answer()
