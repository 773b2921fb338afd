"""The executor: runs an actor's calls, one after another, in the process's main thread.

User code stays in one thread for the actor's whole life (signal handlers, simulators and
GUI libraries want the main one); heartbeats, control commands and acknowledgements live
in the consumer's thread and are never blocked by it.

Actors that run several calls at a time have executors of their own: see
:mod:`celery_actors.worker.threads` and :mod:`celery_actors.worker.event_loop`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import CoroutineType
from typing import TYPE_CHECKING, Any, NoReturn

from celery_actors.protocol.calls import Call
from celery_actors.worker.commits import Commits
from celery_actors.worker.intake import StopCheck
from celery_actors.worker.interrupts import handle_interrupts
from celery_actors.worker.last_words import OWN_ERROR, say
from celery_actors.worker.plain_calls import PlainCalls
from celery_actors.worker.plain_messages import PLAIN_CALLER, PlainCall
from celery_actors.worker.runner import SPECIAL, Run, Runner, current_run
from celery_actors.worker.streams import Producer, produce

if TYPE_CHECKING:
    from celery_actors.client.process import Process
    from celery_actors.worker.acks import Acknowledgements
    from celery_actors.worker.inbox import Inbox
    from celery_actors.worker.instance import Instance

__all__ = ["Executor", "TaskExecutor", "die_of"]

logger = logging.getLogger(__name__)

# Exit status after an error of celery_actors itself.
_EXIT_ERROR = 70

_ACK_AFTER = 0.02
_COLLECT_EVERY = 1.0


def die_of(error: BaseException) -> NoReturn:
    """End the process after an error of celery_actors itself, so that callers are told at once."""
    logger.critical("an error of celery_actors itself", exc_info=error)
    say(OWN_ERROR)
    os._exit(_EXIT_ERROR)


class Executor:
    """Runs calls from the inbox until told to stop."""

    def __init__(
        self,
        process: Process,
        instance: Instance,
        inbox: Inbox | SimpleQueue[Any],
        commits: Commits,
        acks: Acknowledgements,
        runner: Runner,
        plain: PlainCalls,
        request_acks: Callable[[], None],
        many_unacked: int,
    ) -> None:
        self._process = process
        self._instance = instance
        self._inbox = inbox
        self._commits = commits
        self._acks = acks
        self._runner = runner
        self._plain = plain
        self._request_acks = request_acks
        self._many_unacked = many_unacked

    def construct(self) -> None:
        """Make the user's object."""
        self._instance.construct()

    def finish_construction(self, creator: bytes, sequence: int) -> None:
        """The constructor counts as its creator's call: commit its place."""
        self._commits.add(creator, sequence, [])
        self._commits.settle()

    def shut_down(self, hook: Callable[[], Any]) -> None:
        """Run the user's hook for a graceful end."""
        hook()

    def run(self) -> str:
        """Run until the actor is over; returns why."""
        while self._runner.stop is None:
            self._take(self._next())
        self._commits.settle()
        self._request_acks()
        return self._runner.stop

    def _next(self) -> Any:
        """Return the next item of the inbox; tidy up while there is none."""
        inbox = self._inbox
        if len(self._acks) >= self._many_unacked:
            self._request_acks()
        try:
            return inbox.get_nowait()
        except Empty:
            self._commits.settle()
        if len(self._acks):
            try:
                return inbox.get(timeout=_ACK_AFTER)
            except Empty:
                self._request_acks()
        store = self._process.segments.store
        while store.owns_files:  # others release them by a mark, which wakes nobody
            try:
                return inbox.get(timeout=_COLLECT_EVERY)
            except Empty:
                store.collect()
        return inbox.get()

    def _take(self, item: Any) -> None:
        if isinstance(item, list):
            runner = self._runner
            for call in item:
                if call.flags & SPECIAL:
                    runner.do_special(call)
                else:
                    self._call(call)
                if runner.stop is not None:
                    return
        elif isinstance(item, PlainCall):
            self._plain.run(item)
        elif isinstance(item, StopCheck):
            self._stop_check(item)
        elif isinstance(item, str):  # the process itself says that it is over
            self._runner.stop = item

    def _stop_check(self, item: StopCheck) -> None:
        self._acks.committed([(PLAIN_CALLER, item.sequence)])
        record = self._process.control.actor(self._process.actor_hex)
        if record is None or record.state in ("STOPPING", "DEAD"):
            self._runner.stop = "no handle to it is left"

    def _call(self, call: Call) -> None:
        runner = self._runner
        run = runner.begin(call)
        if run is None:
            return
        value: Any = None
        error: BaseException | None = None
        try:
            # An interruption may come at any point of this block, up to its last statement, and
            # comes once.  Behind the block none comes.
            self._begun(run)
            value, error = self._execute(run)
            run.over = True
        except KeyboardInterrupt as interrupt:
            run.over = True
            value, error = None, interrupt
        runner.end(run, value, error)
        error = None  # its traceback refers to this frame, which refers to the arguments

    def _execute(self, run: Run) -> tuple[Any, BaseException | None]:
        """Run user code; returns its value, or what it raised."""
        runner = self._runner
        while True:
            try:
                function, args, kwargs = runner.prepare(run)
                value = function(*args, **kwargs)
                if run.options.streams:
                    value = produce(self._producer(run), run, value, lambda: self._invoke(run))
                elif type(value) is CoroutineType:
                    # A plain method that wraps an `async def` one: the class has no event loop.
                    value = asyncio.run(value)
            except BaseException as raised:  # noqa: BLE001 - see worker.raised
                if runner.runs_again(run, raised):
                    continue
                return None, raised
            return value, None

    def _invoke(self, run: Run) -> Any:
        function, args, kwargs = self._runner.prepare(run)
        return function(*args, **kwargs)

    def _begun(self, run: Run) -> None:
        """A call begins; tasks say here how they are interrupted."""

    def _producer(self, run: Run) -> Producer:
        return Producer(self._process, self._commits, self._runner, run)


class TaskExecutor(Executor):
    """Runs tasks: a task that is cancelled is interrupted, as if by Ctrl-C (as Ray)."""

    def construct(self) -> None:
        """Nothing is made; the signal that interrupts a task gets its handler."""
        super().construct()
        handle_interrupts(self._interrupted)

    def _interrupted(self, _number: int, _frame: Any) -> None:
        run = current_run.get()
        # Else it came after the end of the task that was to be interrupted.
        if run is not None and run.cancelled and not run.over:
            run.be_interrupted()

    def _begun(self, run: Run) -> None:
        main = threading.get_ident()
        self._runner.interrupts(run, lambda: signal.pthread_kill(main, signal.SIGINT))
