-- needs: base placement holding lifecycle
-- id
end_caller(ARGV[3])
place_waiting()
tidy_pulse()
return answer()
