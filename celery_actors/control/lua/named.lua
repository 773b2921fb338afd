-- needs: base
-- namespace, name
-- The actor's id and what handles to it are made from.
local id = call('HGET', key.names, name_field(ARGV[3], ARGV[4]))
local handle = id and call('HGET', key.actor(id), 'handle')
if not handle then return false end
return { id, handle }
