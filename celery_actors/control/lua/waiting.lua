-- needs: base
-- How many requests wait for resources.
local count = 0
for _, shape in ipairs(call('SMEMBERS', key.shapes)) do count = count + call('ZCARD', key.waiting(shape)) end
return count
