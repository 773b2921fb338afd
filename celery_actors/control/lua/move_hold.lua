-- needs: base holding
-- actor, source token, target token
-- Never without a hold on the way, so that a move of the only one is no end. Repeating it is safe.
local id = ARGV[3]
local actor = read_actor(id)
local owner, rest = split_token(ARGV[5])
if not actor or actor.state == 'DEAD' or actor.stopping or not owner_lives(owner, rest) then return 0 end
write_hold(id, owner, rest)
if ARGV[4] ~= ARGV[5] then drop_hold(id, split_token(ARGV[4])) end
return 1
