"""The cluster's records in Redis: nodes, callers, jobs, actors, holds, placement.

Nothing else touches these keys.  Each change is one Lua script (``lua/``), so that it
happens wholly or not at all and nobody sees the middle of it; the rules stand in the
scripts' comments, and :mod:`celery_actors.control.states` has the tables of states that
the scripts are held to.

The one fact that others may read by themselves: the hash ``{prefix}actor:{actor id}`` has
a field ``incarnation``, which is empty from the moment the actor is dead.
"""

from __future__ import annotations

from celery_actors.control.control import Control
from celery_actors.control.errors import (
    CallerGone,
    GroupNameTaken,
    GroupRemoved,
    InsufficientResources,
    NodeGone,
    NodeNameTaken,
)
from celery_actors.control.records import (
    ActorRecord,
    ActorSpec,
    Creation,
    EndedCaller,
    Expired,
    GroupRecord,
    GroupRemoval,
    GroupSpec,
    GroupStrategy,
    JobMetrics,
    JobRecord,
    Killed,
    Missed,
    NamedActor,
    NodeRecord,
    NodeRemoval,
    NodeSpec,
    Placement,
    Reaped,
    StartOrder,
    amounts,
)
from celery_actors.control.states import RAY_NAMES, ActorState
from celery_actors.control.targets import ANYWHERE, LabelRule, Target

__all__ = [
    "ANYWHERE",
    "RAY_NAMES",
    "ActorRecord",
    "ActorSpec",
    "ActorState",
    "CallerGone",
    "Control",
    "Creation",
    "EndedCaller",
    "Expired",
    "GroupNameTaken",
    "GroupRecord",
    "GroupRemoval",
    "GroupRemoved",
    "GroupSpec",
    "GroupStrategy",
    "InsufficientResources",
    "JobMetrics",
    "JobRecord",
    "Killed",
    "LabelRule",
    "Missed",
    "NamedActor",
    "NodeGone",
    "NodeNameTaken",
    "NodeRecord",
    "NodeRemoval",
    "NodeSpec",
    "Placement",
    "Reaped",
    "StartOrder",
    "Target",
    "amounts",
]
