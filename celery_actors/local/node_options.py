"""What a node worker is told about its node."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """Resources of a node; what is None is found out by the node worker itself."""

    name: str | None = None
    num_cpus: float | None = None
    num_gpus: float | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    memory: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        amounts = {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus, "memory": self.memory}
        for what, amount in {**amounts, **self.resources}.items():
            if amount is not None and amount < 0:
                raise ValueError(f"{what} of a node must not be negative, got {amount}")

    def worker_argv(self) -> list[str]:
        """The options for `celery -A celery_actors worker`."""
        argv: list[str] = []
        if self.name is not None:
            argv += ["--node-name", self.name]
        if self.num_cpus is not None:
            argv += ["--num-cpus", f"{self.num_cpus:g}"]
        if self.num_gpus is not None:
            argv += ["--num-gpus", f"{self.num_gpus:g}"]
        resources = dict(self.resources)
        if self.memory is not None:
            # Memory is counted like any other named resource.
            resources["memory"] = self.memory
        if resources:
            argv += ["--resources", json.dumps(resources, sort_keys=True)]
        if self.labels:
            argv += ["--labels", json.dumps(dict(self.labels), sort_keys=True)]
        return argv
