-- needs: base record
-- job or ''
local ids
if ARGV[3] == '' then
  ids = call('ZRANGE', key.actors, 0, -1)
else
  ids = call('SMEMBERS', key.job_actors(ARGV[3]))
  for _, id in ipairs(call('ZRANGE', key.job_dead(ARGV[3]), 0, -1)) do add(ids, id) end
end
local rows = {}
for _, id in ipairs(ids) do
  local row = record_row(id)
  if row then add(rows, row) end
end
return rows
