"""What was assigned to this process: its GPUs and other resources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Assignment", "current_assignment", "set_assignment"]


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a process was given.  A driver has nothing but its job's ``runtime_env``.

    :ivar restarts: how often the actor was begun again.
    :ivar runtime_env: what it inherits together with its own, as users write it.
    :ivar group: the placement group in which it runs; empty: none.
    :ivar captures: what it creates runs in that group as well, unless it says otherwise.
    """

    gpu_ids: tuple[int, ...] = ()
    resources: Mapping[str, int] = field(default_factory=dict)
    node_id: str | None = None
    actor_id: str | None = None
    actor_name: str = ""
    restarts: int = 0
    runtime_env: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""
    captures: bool = False


_assignment = Assignment()


def current_assignment() -> Assignment:
    """Return this process's assignment."""
    return _assignment


def set_assignment(assignment: Assignment) -> None:
    """Say what this process was given; done once, before user code."""
    global _assignment
    _assignment = assignment
