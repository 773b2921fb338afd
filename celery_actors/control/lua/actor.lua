-- needs: base record
return record_row(ARGV[3])
