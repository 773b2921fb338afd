"""What a node worker would start: an actor's process of a cluster that is not there."""

from __future__ import annotations

from pathlib import Path

from celery_actors.config import Settings
from celery_actors.worker.launch import Launch


def launch_in(directory: Path, incarnation: str = "1" * 16) -> Launch:
    """Return a launch whose files in shared memory lie in ``directory``; it is not signed."""
    return Launch(
        actor_id="a" * 32,
        incarnation=incarnation,
        kind="actor",
        class_name="Counter",
        job_id="b" * 16,
        caller_id="c" * 16,
        creator_id="d" * 16,
        node_id="e" * 32,
        hostname="Counter.aaaaaaaa@host",
        gpu_ids=(),
        resources={},
        settings=Settings(
            "amqp://nobody", "redis://nobody:1/0", b"k" * 32, shared_memory_dir=str(directory)
        ),
        send_events=False,
        blob=b"",
    )
