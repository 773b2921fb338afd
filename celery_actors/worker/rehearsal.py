"""The rehearsal: the fork server makes an actor's parts once, and drops them.

What Celery, kombu and redis make when they are first used (caches, tables, registries) is
then there before the fork, in memory that all actors share, and no actor spends time on it.
Nothing is connected, no thread started, no descriptor opened.
"""

from __future__ import annotations

from kombu.asynchronous import set_event_loop

from celery_actors.client.current import set_process
from celery_actors.config import Settings
from celery_actors.control.scripts import load_all
from celery_actors.protocol.creation import Creation
from celery_actors.worker.context import Assignment, set_assignment
from celery_actors.worker.launch import Launch
from celery_actors.worker.prepared import Prepared
from celery_actors.worker.program import ActorProcess

__all__ = ["rehearse"]


def rehearse() -> None:
    """Make what an actor process is made of, and leave no trace of it but warm caches."""
    settings = Settings("amqp://127.0.0.1//", "redis://127.0.0.1/0", bytes(32))
    launch = Launch(
        actor_id=bytes(16).hex(),
        incarnation="",
        kind="actor",
        class_name="Rehearsal",
        job_id="",
        caller_id=bytes(8).hex(),
        creator_id=bytes(8).hex(),
        node_id="",
        hostname="Rehearsal@localhost",
        gpu_ids=(),
        resources={},
        settings=settings,
        send_events=False,
        blob=b"",
    )
    creation = Creation("", "Rehearsal", 0, 0, b"", ())
    ActorProcess(launch, Prepared.of(settings), creation, ()).make_parts()
    load_all()
    set_process(None)
    set_assignment(Assignment())
    set_event_loop(None)
