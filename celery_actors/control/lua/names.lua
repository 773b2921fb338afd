-- needs: base
return call('HKEYS', key.names)
