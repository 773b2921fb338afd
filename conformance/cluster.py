"""A program that keeps a cluster up until its standard input closes.

    python -m conformance.cluster PACKAGE

Prints one line of JSON: the environment in which a program's ``init()`` finds the cluster.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

# Logical GPUs, so that placement is the same on a machine without any.
NODE: dict[str, Any] = {"num_cpus": 4, "num_gpus": 4, "resources": {"disk": 4}}


def main() -> None:
    """Start, tell where, wait, stop."""
    package = sys.argv[1]
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the cluster prints is not for the reader
    ray = importlib.import_module(package)
    if package == "ray":
        ray.init(address="local", include_dashboard=True, log_to_driver=False, **NODE)
        found = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    else:
        session = ray.init("local", log_to_driver=False, **NODE)
        found = dict(session.address.environment())
    print(json.dumps(found), file=output, flush=True)
    sys.stdin.read()
    ray.shutdown()


if __name__ == "__main__":
    main()
