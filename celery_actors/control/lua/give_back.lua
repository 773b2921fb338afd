-- needs: base holding
-- token, objects
-- Which of them nobody keeps any more and have no owner to release them: that is the caller's to do.
local owner, rest = split_token(ARGV[3])
local left = {}
for i = 4, #ARGV do
  local id = 'x' .. ARGV[i]
  drop_borrow(id, owner, rest)
  local owned = call('EXISTS', key.caller(string.sub(ARGV[i], 1, 16))) == 1
  if not owned and call('EXISTS', key.holds(id)) == 0 then add(left, ARGV[i]) end
end
return left
