-- needs: base holding
-- token, objects
local owner, rest = split_token(ARGV[3])
if not owner_lives(owner, rest) then return 0 end
for i = 4, #ARGV do write_hold('x' .. ARGV[i], owner, rest) end
return 1
