-- needs: base
return call('SMEMBERS', key.lingering)
