"""What a node worker hands to a new actor process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from celery_actors.config import Settings
from celery_actors.control.records import ActorKind
from celery_actors.store.owners import file_prefix

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

    def left_file(self, mark: str = "") -> Path:
        """Return where this process leaves in shared memory what its node reads after its end.

        The file is named as one of the node's, so that the sweep of a dead node's files finds it.

        :param mark: what tells the kinds of such files apart (see :data:`.segment.NAME`).
        """
        prefix = file_prefix(self.node_id, f"node.{self.node_id}")
        return Path(self.settings.shared_memory_dir) / f"{prefix}{mark}{self.incarnation}"
