"""A fresh program that joins a cluster which stands: how long its ``init()`` takes.

    python benchmarks/warm_init.py ours|ray [address]

Prints {"import": seconds, "init": seconds} once a task's result has come back right.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


def main() -> int:
    name, address = sys.argv[1], sys.argv[2]
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray: Any
    begun = time.perf_counter()
    if name == "ray":
        import ray
    else:
        import celery_actors as ray
    imported = time.perf_counter()
    ray.init(address or None)
    joined = time.perf_counter()

    @ray.remote
    def successor(number: int) -> int:
        return number + 1

    value = ray.get(successor.remote(41), timeout=60)
    if value != 42:
        raise SystemExit(f"the task returned {value}, not 42")
    ray.shutdown()
    print(json.dumps({"import": imported - begun, "init": joined - imported}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
