-- How a record is given to Python: the values of these fields, then the number of holds.
-- Needs base.lua. RECORD is made from the names in actors.py.
local function record_row(id)
  local values = call('HMGET', key.actor(id), unpack(RECORD))
  if not values[1] then return nil end
  local row = { id }
  for _, value in ipairs(values) do add(row, value or '') end
  add(row, call('SCARD', key.holds(id)))
  return row
end
