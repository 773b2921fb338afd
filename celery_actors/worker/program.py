"""The program of an actor process (and of a task executor): same for both.

Order of events: the consumer's thread starts connecting; meanwhile the main thread
imports the user's class and runs its constructor; the record says ALIVE; then calls that
have gathered in the inbox run.  A constructor that raises ends the actor with that cause.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from celery import Celery
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from celery_actors.client.creation import order_starts
from celery_actors.client.current import require_process, set_process
from celery_actors.client.drain import drain
from celery_actors.client.process import Process
from celery_actors.ids import mailbox_name, object_id
from celery_actors.protocol.creation import Creation, decode_creation
from celery_actors.store.results import Committer
from celery_actors.worker.acks import Acknowledgements
from celery_actors.worker.activity import Activity
from celery_actors.worker.commits import Commits
from celery_actors.worker.context import Assignment, set_assignment
from celery_actors.worker.executor import Executor, task_error
from celery_actors.worker.instance import Instance
from celery_actors.worker.intake import Intake
from celery_actors.worker.launch import Launch
from celery_actors.worker.mailbox_worker import PREFETCH, MailboxWorker

__all__ = ["run"]

logger = logging.getLogger(__name__)

_EXIT_CONSTRUCTOR = 3


def run(launch: Launch) -> int:
    """Be the actor that ``launch`` describes; returns the exit status."""
    logging.basicConfig(
        level=logging.WARNING,
        format=f"[%(asctime)s: %(levelname)s/{launch.hostname}] %(message)s",
    )
    return ActorProcess(launch).run()


def make_app(launch: Launch) -> Celery:
    """Return the Celery app of an actor process."""
    settings = launch.settings
    app = Celery("celery_actors", set_as_current=True)
    app.conf.update(
        broker_url=settings.broker_url,
        result_backend="disabled",
        accept_content=["json"],
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        broker_heartbeat=8,
        worker_enable_prefetch_count_reduction=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_detect_quorum_queues=False,
        worker_enable_remote_control=True,
        **dict(settings.broker_options),
    )
    return app


class ActorProcess:
    """One actor process."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._actor = bytes.fromhex(launch.actor_id)
        settings = launch.settings
        self._process = Process(
            settings,
            caller=bytes.fromhex(launch.caller_id),
            job_id=launch.job_id,
            node_id=launch.node_id,
            driver=False,
            actor_id=self._actor,
            creator_id=launch.creator_id,
        )
        # Callers see a Redis that is away as a delay: an actor waits for it, however long.
        self._process.redis.set_retry(Retry(ExponentialBackoff(cap=0.5, base=0.02), -1))
        self._process.on_blocked = self._give_cpu_back
        set_process(self._process)
        set_assignment(
            Assignment(
                gpu_ids=launch.gpu_ids,
                resources=launch.resources,
                node_id=launch.node_id,
                actor_id=launch.actor_id if launch.kind == "actor" else None,
            )
        )
        creation = decode_creation(self._process.signer, self._actor, launch.blob)
        self._creation: Creation = creation
        self._acks = Acknowledgements()
        self._inbox: SimpleQueue[Any] = SimpleQueue()
        committer = Committer(
            self._process.results,
            self._process.redis,
            f"{settings.prefix}actor:{launch.actor_id}",
            self._actor,
            launch.incarnation,
        )
        self._commits = Commits(
            committer,
            self._process.signer,
            self._actor,
            settings.inline_limit,
            self._acks.finished.update,
        )
        self._instance = Instance(
            self._process, creation, self._commits.value, self._commits.settle
        )
        self._activity = Activity(
            launch.hostname, mailbox_name(self._actor), os.getpid(), self._instance.describe
        )
        self._intake = Intake(
            self._actor,
            self._process.signer,
            self._inbox,
            self._acks,
            self._ask_again,
            self._caller_alive,
            self._forget_caller,
            settings.allow_plain,
            launch.class_name,
        )
        if creation.sequence:  # the constructor was the creator's first call to this actor
            self._intake.accepted[bytes.fromhex(launch.creator_id)] = creation.sequence

    def run(self) -> int:
        """Run until the actor is over; returns the exit status."""
        launch = self._launch
        self._activity.install()
        worker = MailboxWorker(
            make_app(launch),
            launch.hostname,
            mailbox_name(self._actor),
            self._intake,
            self._acks,
            self._activity,
            launch.send_events,
            on_stopped=self._consumer_stopped,
        )
        thread = threading.Thread(target=worker.run, name="celery-actors-consumer", daemon=True)
        thread.start()
        self._commits.start()
        executor = Executor(
            self._process,
            self._instance,
            self._inbox,
            self._commits,
            self._acks,
            self._activity,
            worker.request_acks,
            PREFETCH // 2,
        )
        status = 0
        try:
            self._instance.construct()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the constructor raises
            self._constructor_failed(error)
            status = _EXIT_CONSTRUCTOR
        else:
            if self._creation.sequence:
                creator = bytes.fromhex(launch.creator_id)
                executor.finish_construction(creator, self._creation.sequence)
            if self._process.control.alive(launch.actor_id, launch.incarnation, os.getpid()):
                # An idle actor keeps one connection to Redis, that of its commits.
                self._process.redis.connection_pool.disconnect()
                why = executor.run()
                self._shut_down_instance()
                if self._process.started:
                    drain(self._process, self._give_cpu_back)
                self._process.control.failed(launch.actor_id, launch.incarnation, why, None)
        worker.finish()
        thread.join(timeout=5)
        self._process.close()
        sys.stdout.flush()
        sys.stderr.flush()
        return status

    def _constructor_failed(self, error: BaseException) -> None:
        launch = self._launch
        name = f"{launch.class_name}.__init__"
        wrapped = task_error(name, error)
        oid = object_id(self._actor[:8], 0)
        self._process.control.failed(
            launch.actor_id,
            launch.incarnation,
            f"its constructor raised {type(error).__name__}: {error}",
            self._process.codec.encode_error(oid, wrapped),
        )

    def _shut_down_instance(self) -> None:
        """Run the user's ``__ray_shutdown__`` hook, on a graceful end (as Ray)."""
        hook = getattr(self._instance.object, "__ray_shutdown__", None)
        if hook is None:
            return
        try:
            hook()
        except Exception:  # the user's hook may raise anything; the actor ends all the same
            logger.exception("__ray_shutdown__ of %s raised", self._launch.class_name)

    def _consumer_stopped(self) -> None:
        """The worker was told to shut down (remote control): drain and end."""
        self._inbox.put("its Celery worker was shut down")

    # -- what the intake asks for (consumer's thread) --------------------------------

    def _ask_again(self, caller: bytes, sequence: int) -> None:
        hint = f"G{self._launch.actor_id}:{sequence}"
        self._process.redis.publish(self._process.results.channel(caller.hex()), hint)

    def _caller_alive(self, caller: bytes) -> bool:
        return self._process.control.caller_alive(caller.hex())

    def _forget_caller(self, caller: bytes) -> None:
        """A caller is gone: so are its cursor and the holds of calls that it never sent."""
        process = self._process
        ended = process.control.settle_calls(caller.hex(), self._launch.actor_id)
        for actor_id in ended.stopping:
            require_process().send_stop(bytes.fromhex(actor_id))
        self._acks.finished.pop(caller, None)
        process.results.drop_cursor(self._actor, caller.hex())

    # -- CPUs -------------------------------------------------------------------------

    def _give_cpu_back(self) -> Callable[[], None]:
        """A call waits in ``get``: others may have its CPU meanwhile."""
        launch, process = self._launch, self._process
        if not launch.resources.get("CPU"):
            return lambda: None
        order_starts(process, process.control.block(launch.actor_id, launch.incarnation))
        return lambda: process.control.unblock(launch.actor_id, launch.incarnation)
