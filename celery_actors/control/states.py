"""The states of actors, nodes and placement groups, and what may follow what.

The scripts get :data:`ACTOR_TRANSITIONS` and :data:`GROUP_TRANSITIONS` prepended and refuse
any other change, so that these tables are the only place to read and the only place to alter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

ActorState = Literal["UNREADY", "PENDING", "PLACED", "STARTING", "ALIVE", "STOPPING", "DEAD"]
NodeState = Literal["LIVE", "GONE"]
GroupState = Literal["PENDING", "CREATED", "RESCHEDULING", "REMOVED"]

ACTOR_TRANSITIONS: Mapping[ActorState, frozenset[ActorState]] = {
    # Arguments of its constructor are still being made; it asks for no resources yet.
    "UNREADY": frozenset({"PENDING", "DEAD"}),
    # Waits for resources: for the first time, or after the loss of its process (a restart).
    "PENDING": frozenset({"PLACED", "DEAD"}),
    # Resources are reserved; the node has not begun it yet, so it may still go elsewhere.
    "PLACED": frozenset({"STARTING", "PENDING", "DEAD"}),
    # The node claimed the placement: a process may exist.
    "STARTING": frozenset({"ALIVE", "STOPPING", "PENDING", "DEAD"}),
    # The constructor returned.
    "ALIVE": frozenset({"STOPPING", "PENDING", "DEAD"}),
    # No hold is left: it runs the calls made before and ends.
    "STOPPING": frozenset({"PENDING", "DEAD"}),
    # Over.
    "DEAD": frozenset(),
}

NODE_TRANSITIONS: Mapping[NodeState, frozenset[NodeState]] = {
    # Its record exists (its lease may have run out: nothing new is placed on it then).
    "LIVE": frozenset({"GONE"}),
    # Removed.  A node worker that starts again takes a new id, so this is final too.
    "GONE": frozenset(),
}

GROUP_TRANSITIONS: Mapping[GroupState, frozenset[GroupState]] = {
    # Waits for resources: all of its bundles are reserved, or none.
    "PENDING": frozenset({"CREATED", "REMOVED"}),
    # All bundles are reserved.
    "CREATED": frozenset({"RESCHEDULING", "REMOVED"}),
    # Bundles were lost with their nodes; they wait for resources, the others are as they were.
    "RESCHEDULING": frozenset({"CREATED", "REMOVED"}),
    # Over, and what ran in it.
    "REMOVED": frozenset(),
}

RAY_NAMES: Mapping[ActorState, str] = {
    "UNREADY": "DEPENDENCIES_UNREADY",
    "PENDING": "PENDING_CREATION",
    "PLACED": "PENDING_CREATION",
    "STARTING": "PENDING_CREATION",
    "ALIVE": "ALIVE",
    "STOPPING": "ALIVE",
    "DEAD": "DEAD",
}

RESTARTING = "RESTARTING"
"""Ray's name of the states before ALIVE, of an actor that has run before."""


def ray_name(state: ActorState, restarts: int) -> str:
    """Return the state of an actor under Ray's name."""
    name = RAY_NAMES[state]
    return RESTARTING if restarts and name == "PENDING_CREATION" else name
