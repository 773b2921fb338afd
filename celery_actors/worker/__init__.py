"""The node worker, its fork server, and the processes that actors and tasks run in."""
