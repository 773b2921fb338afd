-- needs: base holding
-- actor, token
local id = ARGV[3]
local owner, rest = split_token(ARGV[4])
local actor = read_actor(id)
if not actor or actor.state == 'DEAD' or actor.stopping or not owner_lives(owner, rest) then return 0 end
write_hold(id, owner, rest)
return 1
