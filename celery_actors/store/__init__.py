"""Objects: results in Redis, large values in shared memory.  Nothing else touches their keys."""
