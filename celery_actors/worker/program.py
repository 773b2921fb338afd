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
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from celery_actors.client.broker import Broker
from celery_actors.client.cancelling import cancel_children
from celery_actors.client.creation import order_starts
from celery_actors.client.current import closing, require_process, set_process
from celery_actors.client.drain import drain
from celery_actors.client.process import Process
from celery_actors.exceptions import RuntimeEnvSetupError
from celery_actors.ids import NO_INCARNATION, mailbox_name, object_id
from celery_actors.logging_config import LoggingConfig
from celery_actors.protocol.concurrency import Concurrency
from celery_actors.protocol.creation import Creation, decode_creation
from celery_actors.protocol.orders import (
    CancelledCall,
    Order,
    OrderKind,
    decode_order,
    encode_order,
)
from celery_actors.protocol.signing import Signer
from celery_actors.protocol.withdrawals import Withdrawal, encode_withdrawal
from celery_actors.store.committer import Committer
from celery_actors.store.express import ExpressSocket, express_path
from celery_actors.store.ring import NO_MEMORY
from celery_actors.tracebacks import formatted, name_of, text_of
from celery_actors.worker.acks import Acknowledgements, ConcurrentAcknowledgements
from celery_actors.worker.activity import Activity
from celery_actors.worker.cancellation import Cancellations, Found, TaskCancellations
from celery_actors.worker.commits import Commits
from celery_actors.worker.context import Assignment, set_assignment
from celery_actors.worker.departures import Departures
from celery_actors.worker.environment_cache import EnvironmentCache
from celery_actors.worker.environments import enter, fail
from celery_actors.worker.event_loop import AsyncExecutor, LoopInbox
from celery_actors.worker.executor import Executor, TaskExecutor
from celery_actors.worker.exits import ActorExit, on_exit_actor
from celery_actors.worker.history import History
from celery_actors.worker.inbox import Inbox
from celery_actors.worker.instance import Instance
from celery_actors.worker.intake import Intake
from celery_actors.worker.interpreter_end import Deadline, run_exit_handlers
from celery_actors.worker.interrupts import take_no_interrupts
from celery_actors.worker.last_words import say, speak_as, take_back
from celery_actors.worker.launch import Launch
from celery_actors.worker.log_context import log_context
from celery_actors.worker.mailbox_worker import PREFETCH
from celery_actors.worker.modules import use_drivers_modules
from celery_actors.worker.plain_calls import PlainCalls
from celery_actors.worker.plain_results import PlainResults
from celery_actors.worker.prepared import Prepared
from celery_actors.worker.progress import ConcurrentProgress, Progress
from celery_actors.worker.raised import Ending, is_a, task_error
from celery_actors.worker.recorder import Recorder
from celery_actors.worker.runner import Runner, current_run, shielded
from celery_actors.worker.threads import ThreadedExecutor

__all__ = ["run"]

logger = logging.getLogger(__name__)

_EXIT_CONSTRUCTOR = 3
_MOST_CAUSE = 2000  # characters of a cause of death; the error has the whole text
_UNCOMMITTED = 64  # calls that may run past the last commit (PROTOCOL, Flight recorder)
_MOST_PREFETCH = 65_000
# How long a thread may keep the GIL from another, in seconds; Python's own 5 ms are those of a
# hundred calls and more, while which results would wait to be sent by the flusher.
_SWITCH_INTERVAL = 0.001
_ALL = sys.maxsize


def run(launch: Launch, prepared: Prepared, paths: tuple[str, ...] | None = None) -> int:
    """Be the actor that ``launch`` describes; returns the exit status.

    :param prepared: of the launch's settings.
    :param paths: first on ``sys.path``; ``None``: its environment is yet to be set up.
    """
    speak_as(launch)
    take_no_interrupts()
    prepared.log_as(launch.hostname)
    signer, actor = Signer(launch.settings.key), bytes.fromhex(launch.actor_id)
    creation = decode_creation(signer, actor, launch.blob)
    if paths is None and creation.environment:
        try:
            paths = enter(launch, creation.environment)
        except RuntimeEnvSetupError as error:
            return fail(launch, error)
    return ActorProcess(launch, prepared, creation, paths or ()).run()


class ActorProcess:
    """One actor process."""

    def __init__(
        self, launch: Launch, prepared: Prepared, creation: Creation, paths: tuple[str, ...]
    ) -> None:
        self._launch = launch
        self._worker = prepared.worker
        self._actor = bytes.fromhex(launch.actor_id)
        self._incarnation = bytes.fromhex(launch.incarnation)
        settings = launch.settings
        self._process = Process(
            settings,
            prepared.stores,
            caller=bytes.fromhex(launch.caller_id),
            job_id=launch.job_id,
            node_id=launch.node_id,
            driver=False,
            actor_id=self._actor,
            creator_id=launch.creator_id,
            namespace=launch.namespace,
        )
        self._process.on_blocked = self._give_cpu_back
        set_process(self._process)
        set_assignment(
            Assignment(
                gpu_ids=launch.gpu_ids,
                resources=launch.resources,
                node_id=launch.node_id,
                actor_id=launch.actor_id if launch.kind == "actor" else None,
                actor_name=launch.actor_name,
                restarts=launch.restarts,
                runtime_env=creation.environment.as_runtime_env(),
                group=creation.group,
                captures=creation.captures,
            )
        )
        self._process.environments.inherit(creation, paths)
        if creation.environment.logging:
            LoggingConfig.of_json(creation.environment.logging).apply(log_context)
        self._first_paths = paths
        self._creation = replace(creation, sys_path=paths + creation.sys_path)
        self._why: str | None = None  # the actor is over, once it served
        self._creates_first = False  # the constructor's place in the order is to be committed
        self._blocked = 0
        # Guards _blocked: calls of a threaded actor wait each on its own.
        self._blocked_lock = threading.Lock()
        self._committer = Committer(
            self._process.results,
            self._process.redis,
            f"{settings.prefix}actor:{launch.actor_id}",
            self._actor,
            launch.incarnation,
        )

    def run(self) -> int:
        """Run until the actor is over; returns the exit status."""
        sys.setswitchinterval(_SWITCH_INTERVAL)
        self.make_parts()
        express = self._open_express()
        self._resume()
        launch, worker = self._launch, self._worker
        self._activity.install()
        thread = threading.Thread(target=worker.run, name="celery-actors-consumer", daemon=True)
        thread.start()
        if not launch.restarts:
            self._commits.open()
        self._commits.start()
        on_exit_actor(self._told_to_exit)
        cache = EnvironmentCache(launch.node_id)
        use_drivers_modules(self._process, self._creation, self._first_paths, cache)
        os.register_at_fork(after_in_child=self._runner.forked)
        if self._construct() and self._is_alive():
            self._serve()
        status = self._end()
        worker.finish()
        thread.join(timeout=5)
        if express is not None:
            express.close()
        self._process.close()
        return status

    def _construct(self) -> bool:
        """Run the constructor; whether there is an actor now."""
        creator = bytes.fromhex(self._launch.creator_id)
        raised: BaseException | None = None
        self._history.constructing(creator, self._creation.sequence)
        try:
            self._executor.construct()
        except BaseException as error:  # noqa: BLE001 - see worker.raised
            raised = error
        if raised is not None and is_a(raised, SystemExit):
            self._runner.exited(raised, f"{self._launch.class_name}.__init__")
        self._history.constructed(raised)
        if raised is None and self._runner.ending is None:
            if self._creates_first:
                self._executor.finish_construction(creator, self._creation.sequence)
            return True
        if raised is not None and self._runner.ending is None:
            self._constructor_failed(raised)
        return False

    def _is_alive(self) -> bool:
        launch = self._launch
        return self._process.control.alive(launch.actor_id, launch.incarnation, os.getpid())

    def _serve(self) -> None:
        """Run calls until the actor is over."""
        # First: who cancels a call from then on tells this process itself.
        self._worker.ready.wait()
        self._cancelled_before()
        # An idle actor keeps one connection to Redis, that of its commits.
        self._process.redis.connection_pool.disconnect()
        self._why = self._executor.run()

    def _told_to_exit(self, asked: ActorExit) -> None:
        """User code called ``exit_actor()``.  The thread that did."""
        run = current_run.get()
        if run is not None and not run.over:
            run.exits = True
        else:  # in the constructor, or in a thread or task of the actor's own
            self._runner.leave(Ending(str(asked)))
            self._inbox.put(self._runner.stop)

    def _end(self) -> int:
        """Do what an interpreter does at its end, and say that the actor is over.

        :returns: the exit status.
        """
        ending, why = self._runner.ending, self._why
        crash = None if ending is None else ending.crash
        if ending is not None:
            why = ending.why
        if crash is not None:
            say(f"its process exited with status {crash}: {why}")
        elif why is not None:
            say(why, over=True)
        over = partial(self._over, why, crash)
        with Deadline(self._launch.settings.exit_timeout, partial(_cut_short, over, crash)):
            if crash is None and self._why is not None:
                self._shut_down_instance()
            run_exit_handlers(self._instance.drop)
        if crash is None and self._process.started:
            drain(self._process, self._give_cpu_back, self._launch.resources.keys() <= {"CPU"})
        over()
        return crash or (0 if self._why is not None else _EXIT_CONSTRUCTOR)

    def _over(self, why: str | None, crash: int | None) -> None:
        """Tell the cluster that the actor is over; of a crash its node does, once it is gone."""
        if why is None:  # the constructor failed, or the actor is dead to the cluster
            return
        self._history.leave()
        closing(self._process)  # before anybody is told: what it measured is there then
        if crash is None:
            launch = self._launch
            self._process.control.failed(launch.actor_id, launch.incarnation, why, None)
            take_back()
        else:
            logger.error("the process exits with status %d: %s", crash, why)

    # -- the parts ----------------------------------------------------------------------

    def _own_value(self, oid: bytes) -> bytes | None:
        return self._commits.value(oid)

    def _settle(self) -> None:
        """Wait, within a call that needs them, until earlier results are committed."""
        run = current_run.get()
        with shielded(run) if run is not None else nullcontext():
            self._commits.settle()

    def make_parts(self) -> None:
        """Make what runs and commits calls; nothing is connected or started."""
        launch, process = self._launch, self._process
        concurrency = self._creation.concurrency
        settings = launch.settings
        serial = concurrency.serial
        self._instance = Instance(process, self._creation, self._own_value, self._settle)
        self._acks = Acknowledgements() if serial else ConcurrentAcknowledgements()
        self._progress = Progress() if serial else ConcurrentProgress()
        self._inbox: Inbox | SimpleQueue[Any] = _inbox_for(concurrency)
        is_executor = self._instance.is_executor
        self._cancellations = TaskCancellations() if is_executor else Cancellations()
        self._most_begun = _UNCOMMITTED + (0 if serial else concurrency.most)
        recorder = Recorder(launch, self._most_begun) if launch.records_calls else None
        self._recorder = recorder
        self._concurrent = not serial
        self._commits = Commits(
            self._committer,
            process.signer,
            self._actor,
            settings.inline_limit,
            process.segments.rings,
            self._progress,
            self._committed,
        )
        self._activity = Activity(
            launch.hostname, mailbox_name(self._actor), os.getpid(), self._instance.describe
        )
        self._history = History(process, launch, self._activity)
        self._intake = Intake(
            self._actor,
            process.signer,
            self._inbox,
            self._acks,
            self._ask_again,
            Departures(self._caller_alive, self._publish_marker, self._forget_caller),
            settings.allow_plain,
            launch.class_name,
            self._reject,
            process.segments.rings.read,
            self._incarnation,
        )
        self._worker.serve(
            launch.hostname,
            mailbox_name(self._actor),
            self._intake,
            self._inbox,
            self._acks,
            self._activity,
            launch.send_events,
            PREFETCH if serial else min(PREFETCH + concurrency.most, _MOST_PREFETCH),
            on_stopped=self._consumer_stopped,
            on_cancel=self._cancel,
            history=self._history,
            tidy=process.segments.rings.forget_idle,
            is_wanted=self._is_wanted,
        )
        self._runner = Runner(
            process,
            self._instance,
            self._commits,
            self._activity,
            self._cancellations,
            recorder,
            self._intake.attempts,
        )
        self._executor = self._make_executor(concurrency)
        process.parent_task = _task_that_runs

    def _open_express(self) -> ExpressSocket | None:
        """Make the socket for calls that come by express, where the executor can read it."""
        settings, inbox = self._launch.settings, self._inbox
        if not isinstance(inbox, Inbox) or Broker.to_read(settings).secure:
            return None
        if self._launch.restarts:  # others may call it by now
            return None
        if not settings.express or self._process.segments.rings.memory == NO_MEMORY:
            return None
        try:
            made = ExpressSocket(express_path(Path(settings.shared_memory_dir), self._incarnation))
        except OSError as error:
            logger.info("no calls by express, they go by RabbitMQ alone: %s", error)
            return None
        inbox.express, inbox.take_express = made, self._intake.take_express
        self._commits.express = self._incarnation
        self._process.on_shared = self._refuse_express
        os.register_at_fork(after_in_child=made.abandon)
        return made

    def _refuse_express(self) -> None:
        """Others may call: the creator sends to the mailbox only, from the next result on."""
        self._commits.express = NO_INCARNATION

    def _make_executor(self, concurrency: Concurrency) -> Executor:
        parts: tuple[Any, ...] = (
            self._process,
            self._instance,
            self._inbox,
            self._commits,
            self._acks,
            self._runner,
            self._plain_calls(),
            self._worker.request_acks,
            PREFETCH // 2,
        )
        if concurrency.asyncio:
            return AsyncExecutor(*parts, concurrency=concurrency, progress=self._progress)
        if not concurrency.serial:
            return ThreadedExecutor(*parts, concurrency=concurrency, progress=self._progress)
        return TaskExecutor(*parts) if self._instance.is_executor else Executor(*parts)

    def _plain_calls(self) -> PlainCalls:
        launch = self._launch
        results = PlainResults(
            self._worker.app, self._process.redis, launch.hostname, mailbox_name(self._actor)
        )
        return PlainCalls(self._instance, self._commits, self._activity, results, self._runner)

    def _resume(self) -> None:
        """Go on where the last incarnation ended, if there was one.

        The record names this incarnation already, so that what its predecessor has not
        committed by now it never will.
        """
        launch = self._launch
        creator, sequence = bytes.fromhex(launch.creator_id), self._creation.sequence
        if not launch.restarts:
            self._creates_first = bool(sequence)
            if sequence:  # the constructor is the creator's first call
                self._intake.accepted[creator] = sequence
            return
        cursors = self._commits.open()
        self._creates_first = creator not in cursors
        self._progress.resume(cursors)
        self._intake.resume(cursors, self._suspects() if launch.interrupted_unknown else 0)
        if self._creates_first:
            self._intake.accepted[creator] = sequence
        for call_id, attempts in launch.attempts.items():
            raw = bytes.fromhex(call_id)
            self._intake.attempts[raw[:8], int.from_bytes(raw[8:], "big")] = attempts

    def _suspects(self) -> int:
        """How many of the calls that come again a lost incarnation may have begun.

        Calls begin in the order in which they come, but each concurrency group's on their own.
        """
        return self._most_begun if len(self._creation.concurrency.groups) == 1 else _ALL

    def _committed(self, calls: list[tuple[bytes, int]]) -> None:
        self._acks.committed(calls)
        if self._recorder is not None:
            self._recorder.committed(calls)
        if self._concurrent:  # a serial executor acknowledges when it has nothing else to do
            self._worker.request_acks()

    def _constructor_failed(self, error: BaseException) -> None:
        launch = self._launch
        name = f"{launch.class_name}.__init__"
        wrapped = task_error(name, error)
        oid = object_id(self._actor[:8], 0)
        self._history.leave()
        self._process.control.failed(
            launch.actor_id,
            launch.incarnation,
            f"its constructor raised {name_of(error)}: {text_of(error)}"[:_MOST_CAUSE],
            self._process.codec.encode_error_inline(oid, wrapped),
        )

    def _shut_down_instance(self) -> None:
        """Run the user's ``__ray_shutdown__`` hook, on a graceful end (as Ray)."""
        try:
            hook = getattr(self._instance.object, "__ray_shutdown__", None)
            if hook is not None:
                self._executor.shut_down(hook)
        except BaseException as error:  # noqa: BLE001 - user code; the actor ends anyway
            name = self._launch.class_name
            logger.error("__ray_shutdown__ of %s raised:\n%s", name, formatted(error))

    def _consumer_stopped(self) -> None:
        """The worker was told to shut down (remote control): drain and end."""
        self._inbox.put("its Celery worker was shut down")

    # -- what the intake asks for (the thread that reads the mailbox) ------------------

    def _reject(self, channel: Any, tag: int) -> None:
        self._worker.reject(channel, tag)

    def _ask_again(self, caller: bytes, sequence: int, by_ring: bool) -> None:
        hint = f"{'G' if by_ring else 'M'}{self._launch.actor_id}:{sequence}"
        self._process.redis.publish(self._process.results.channel(caller.hex()), hint)

    def _is_wanted(self) -> bool:
        """Whether this incarnation is still the actor (its mailbox may have been deleted)."""
        record = self._process.control.actor(self._launch.actor_id)
        return record is not None and record.incarnation == self._launch.incarnation

    def _caller_alive(self, caller: bytes) -> bool:
        return self._process.control.caller_alive(caller.hex())

    def _publish_marker(self, number: int) -> None:
        """Have a marker written behind all that is in the mailbox now."""
        queue, incarnation = mailbox_name(self._actor), self._launch.incarnation
        order = Order(OrderKind.MARKER, str(number), incarnation)
        self._worker.publish_to_mailbox(encode_order(self._process.signer, queue, order))

    def _forget_caller(self, caller: bytes) -> None:
        """A caller is gone: so are its cursor and the holds of calls that it never sent."""
        process = self._process
        ended = process.control.settle_calls(caller.hex(), self._launch.actor_id)
        for actor_id in ended.stopping:
            require_process().send_stop(bytes.fromhex(actor_id))
        self._acks.forget(caller)
        self._commits.forget(caller)
        process.results.drop_cursor(self._actor, caller.hex())

    # -- cancelling (consumer's thread) -----------------------------------------------

    def _cancel(self, body: bytes) -> str:
        """Carry out a signed order to cancel a call, or to begin none; returns what it did."""
        order = decode_order(self._process.signer, mailbox_name(self._actor), body)
        if order.kind is OrderKind.WITHDRAW:
            return self._withdraw(bytes.fromhex(order.subject))
        if order.kind is not OrderKind.CANCEL:
            raise ValueError(f"an order to {order.kind.value} does not come this way")
        return self._cancel_call(
            CancelledCall.decode(bytes.fromhex(order.subject)), order.recursive
        )

    def _withdraw(self, caller: bytes) -> str:
        """Begin none of a caller's tasks that wait here, and tell it which these are."""
        cancellations = self._cancellations
        if not isinstance(cancellations, TaskCancellations):
            raise ValueError("an actor's calls can't be taken back: they run in their order")
        taken, process = self._intake.accepted.get(caller, 0), self._process

        def tell(begun: int) -> None:
            said = Withdrawal(self._actor, begun, taken)
            hint = f"B{encode_withdrawal(process.signer, caller, said)}"
            process.redis.publish(process.results.channel(caller.hex()), hint)

        cancellations.withdraw(caller, taken, tell)
        return "withdrawn"

    def _cancel_call(self, wanted: CancelledCall, recursive: bool) -> str:
        caller, task, sequence = wanted
        found = self._cancellations.cancel(
            caller, task, recursive, lambda: self._commits.is_finished(caller, sequence)
        )
        if found is Found.WAITING:
            # Its getters need not wait until the actor comes to it.
            self._commits.add_values(caller, [self._runner.cancelled_result(caller, task)])
        elif found is Found.RUNNING and recursive:
            cancel_children(self._process, caller + task.to_bytes(8, "big"))
        return "over" if found is None else found.value

    def _cancelled_before(self) -> None:
        """Take note of the calls that were cancelled before this process could be told."""
        for member in self._process.results.cancelled(self._actor):
            self._cancel_call(CancelledCall.decode(member), recursive=False)

    # -- CPUs -------------------------------------------------------------------------

    def _give_cpu_back(self) -> Callable[[], None]:
        """A call waits in ``get``: others may have its CPU meanwhile."""
        launch, process = self._launch, self._process
        if not launch.resources.get("CPU"):
            return lambda: None
        with self._blocked_lock:
            self._blocked += 1
            first = self._blocked == 1
        if first:
            order_starts(process, process.control.block(launch.actor_id, launch.incarnation))
        return self._take_cpu_again

    def _take_cpu_again(self) -> None:
        with self._blocked_lock:
            self._blocked -= 1
            last = self._blocked == 0
        if last:
            self._process.control.unblock(self._launch.actor_id, self._launch.incarnation)


def _inbox_for(concurrency: Concurrency) -> Inbox | SimpleQueue[Any]:
    if concurrency.asyncio:
        return LoopInbox()
    return Inbox() if concurrency.serial else SimpleQueue()


def _task_that_runs() -> bytes | None:
    """Return the task id of the call that this thread (or asyncio task) runs."""
    run = current_run.get()
    return None if run is None else run.call.caller + run.call.task.to_bytes(8, "big")


def _cut_short(over: Callable[[], None], crash: int | None) -> None:
    """The end took too long: the process goes, and the cluster knows before."""
    try:
        over()
    finally:
        os._exit(crash or 0)
