"""What a node worker hands to a new actor process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from celery_actors.config import Settings
from celery_actors.control.records import ActorKind

__all__ = ["Launch"]


@dataclass(frozen=True, slots=True)
class Launch:
    """One process to be started.

    :ivar caller_id: the id under which this process calls others.
    :ivar blob: the signed creation (see :mod:`celery_actors.creation`).
    :ivar environment: set before any user import; ``CUDA_VISIBLE_DEVICES`` among them.
    :ivar namespace: of its job, in which it looks up names of actors.
    :ivar restarts: how often the actor was begun before.
    :ivar records_calls: it may be begun again, so that it keeps a flight recorder.
    :ivar attempts: how often earlier processes began calls that they did not finish, by call
        id (hex of caller and sequence).
    :ivar interrupted_unknown: the process before was lost with its flight recorder.
    """

    actor_id: str
    incarnation: str
    kind: ActorKind
    class_name: str
    job_id: str
    caller_id: str
    creator_id: str
    node_id: str
    hostname: str
    gpu_ids: tuple[int, ...]
    resources: Mapping[str, int]
    settings: Settings
    send_events: bool
    blob: bytes = field(repr=False)
    environment: Mapping[str, str] = field(default_factory=dict)
    log_file: str = ""
    actor_name: str = ""
    namespace: str = ""
    restarts: int = 0
    records_calls: bool = False
    attempts: Mapping[str, int] = field(default_factory=dict)
    interrupted_unknown: bool = False
