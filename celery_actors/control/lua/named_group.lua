-- needs: base
-- namespace, name
return call('HGET', key.group_names, ARGV[3] .. '\0' .. ARGV[4])
