"""Ray's documented actor behaviour as cases and programs, run on this package and on Ray itself."""
