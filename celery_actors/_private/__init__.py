"""Private names of Ray that public programs use; each leads to its public counterpart here."""
