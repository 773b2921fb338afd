-- needs: base placement holding lifecycle
-- caller, actor
-- The actor has the caller's last message: nothing of that caller is in its mailbox any more, not
-- even calls announced by a hold and never sent, which no cursor will ever reach.
local caller, actor_id = ARGV[3], ARGV[4]
drop_owned(caller, function(_, _, destination) return destination == actor_id end)
place_waiting()
return answer()
