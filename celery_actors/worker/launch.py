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
    restarts: int = 0
    records_calls: bool = False
    attempts: Mapping[str, int] = field(default_factory=dict)
    interrupted_unknown: bool = False
