"""Private names of Ray that public programs use all the same, each with what is public here."""
