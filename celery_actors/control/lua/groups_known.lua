-- needs: base
-- id, or '' for all; the values of GROUP_RECORD's fields for each
call('ZREMRANGEBYSCORE', key.groups, '-inf', now)
local ids = ARGV[3] ~= '' and { ARGV[3] } or call('ZRANGE', key.groups, 0, -1)
local rows = {}
for _, id in ipairs(ids) do
  local values = call('HMGET', key.group(id), unpack(GROUP_RECORD))
  if values[1] then
    local row = { id }
    for _, value in ipairs(values) do add(row, value or '') end
    add(rows, row)
  end
end
return rows
