-- needs: base holding
-- token, objects
local owner, rest = split_token(ARGV[3])
for i = 4, #ARGV do drop_borrow('x' .. ARGV[i], owner, rest) end
