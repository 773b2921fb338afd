-- needs: base holding
-- actor, token
local id = ARGV[3]
drop_hold(id, split_token(ARGV[4]))
local actor = read_actor(id)
if not actor or not unheld(actor) then return 0 end
start_stopping(actor)
return 1
