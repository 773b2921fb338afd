"""Flower's settings: each actor is a worker, each call a task."""

import os

address = os.environ.get("FLOWER_ADDRESS", "127.0.0.1")
port = int(os.environ.get("FLOWER_PORT", "5555"))

# "user:password". Without it Flower is for this machine only, see the address above, and it refuses
# its HTTP API (/api/...), by which any page in a local browser could otherwise stop workers.
_auth = os.environ.get("FLOWER_BASIC_AUTH")
basic_auth = [_auth] if _auth else []

# Actors come and go: without this those that are gone stay in the list as offline workers.
purge_offline_workers = 30

# Calls are many; what is shown is the latest ones.
max_tasks = 20_000
max_workers = 5_000

# Its requests to the workers end no later than a node's lease.
inspect_timeout = 5_000.0  # milliseconds
