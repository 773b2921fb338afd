-- needs: base
-- objects
-- Which of them others keep: 1 or 0 each.
local kept = {}
for i = 3, #ARGV do add(kept, call('EXISTS', key.holds('x' .. ARGV[i]))) end
return kept
