-- needs: base placement holding lifecycle
-- id, cause
local group = read_group(ARGV[3])
if group and group.state ~= 'REMOVED' then
  close_group(group, ARGV[4], die)
  place_waiting()
  tidy_line()
end
return answer()
