-- needs: base
-- namespace, name
return call('HGET', key.group_names, name_field(ARGV[3], ARGV[4]))
