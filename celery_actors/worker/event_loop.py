"""The executor of asyncio actors: calls are tasks on an event loop in the main thread.

A class with an ``async def`` method is an asyncio actor (as in Ray): all its methods run
on the loop, plain ones too, up to the limits of its concurrency groups, and begin in the
order in which they were submitted.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine
from queue import SimpleQueue
from typing import Any

from celery_actors.protocol.calls import Call
from celery_actors.protocol.concurrency import Concurrency
from celery_actors.tracebacks import formatted
from celery_actors.worker.executor import Executor, die_of
from celery_actors.worker.intake import PLAIN_CALLER, PlainCall
from celery_actors.worker.progress import Progress
from celery_actors.worker.streams import produce_async

__all__ = ["AsyncExecutor", "LoopInbox"]

logger = logging.getLogger(__name__)

_COLLECT_EVERY = 1.0


class LoopInbox(SimpleQueue[Any]):
    """An inbox whose reader is an event loop.  ``put`` may be called from any thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.arrived: Callable[[], None] = lambda: None

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add an item, and have the loop take it."""
        super().put(item, block, timeout)
        self.loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self.arrived()


class _Group:
    """The calls of one concurrency group: those that run are counted, the others wait."""

    __slots__ = ("free", "waiting")

    def __init__(self, limit: int) -> None:
        self.free = limit
        self.waiting: deque[Call | PlainCall] = deque()


class AsyncExecutor(Executor):
    """Runs calls as asyncio tasks.  Everything but the inbox's ``put`` is the loop's thread's."""

    def __init__(
        self, *args: Any, concurrency: Concurrency, progress: Progress, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        inbox = self._inbox
        assert isinstance(inbox, LoopInbox)
        self._loop_inbox = inbox
        self._loop = inbox.loop
        self._progress = progress
        self._groups = {name: _Group(limit) for name, limit in concurrency.groups.items()}
        self._tasks: set[asyncio.Task[None]] = set()
        self._over: asyncio.Event = asyncio.Event()

    def construct(self) -> None:
        """Make the user's object on the loop; its ``__init__`` may be ``async def``."""
        asyncio.set_event_loop(self._loop)
        self._run_through(self._instance.construct_async())

    def shut_down(self, hook: Callable[[], Any]) -> None:
        """Run the user's hook for a graceful end; it may be ``async def``."""

        async def run() -> None:
            result = hook()
            if inspect.isawaitable(result):
                await result

        self._run_through(run())

    def _run_through(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine of ours to its end.

        A task of user code's own that raises KeyboardInterrupt or SystemExit stops the loop,
        beside giving it to who awaits the task: the loop goes on.
        """
        task = self._loop.create_task(coroutine)
        while not task.done():
            try:
                self._loop.run_until_complete(task)
            except BaseException as raised:
                if task.done():  # it raised that itself
                    raise
                self._raised_outside(raised)

    def _raised_outside(self, error: BaseException) -> None:
        if isinstance(error, SystemExit):
            self._runner.exited(error, "a task on its event loop")
            self._over.set()
        else:
            logger.error("a task on the event loop raised:\n%s", formatted(error))

    def run(self) -> str:
        """Run until the actor is over and its tasks are at rest; returns why."""
        self._run_through(self._serve())
        self._commits.settle()
        self._request_acks()
        assert self._runner.stop is not None
        return self._runner.stop

    async def _serve(self) -> None:
        self._loop_inbox.arrived = self._empty_inbox
        self._loop.call_later(_COLLECT_EVERY, self._collect)
        self._empty_inbox()
        await self._over.wait()
        # What runs ends first; if the actor did not end itself, also what was submitted.
        if self._runner.ending is not None:
            for group in self._groups.values():
                group.waiting.clear()
        while self._tasks and not self._runner.crashed:
            await asyncio.wait(set(self._tasks), return_when=asyncio.FIRST_COMPLETED)

    def _empty_inbox(self) -> None:
        # Also of an actor that nobody holds any more: what still runs may have called it, and
        # wait for that.
        while not self._loop_inbox.empty() and self._runner.ending is None:
            self._take(self._inbox.get_nowait())
        if self._runner.stop is not None:
            self._over.set()

    def _collect(self) -> None:
        """Take back files of shared memory: others release them by a mark, which wakes nobody."""
        store = self._process.segments.store
        if store.owns_files:
            store.collect()
        self._loop.call_later(_COLLECT_EVERY, self._collect)

    def _take(self, item: Any) -> None:
        if isinstance(item, PlainCall):
            self._progress.begin(PLAIN_CALLER, item.sequence)
            self._enqueue(self._groups[self._plain.group(item, self._groups)], item)
        elif isinstance(item, list):
            for call in item:
                self._progress.begin(call.caller, call.sequence)
                if self._runner.is_special(call):
                    self._runner.do_special(call)
                else:
                    self._enqueue(self._groups[self._runner.group(call, self._groups)], call)
        else:
            super()._take(item)

    def _enqueue(self, group: _Group, call: Call | PlainCall) -> None:
        if group.free > 0:
            group.free -= 1
            self._start(group, call)
        else:
            group.waiting.append(call)

    def _start(self, group: _Group, call: Call | PlainCall) -> None:
        run = self._run_plain(call) if isinstance(call, PlainCall) else self._run(call)
        task = self._loop.create_task(run)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._done(group, done))

    def _done(self, group: _Group, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._runner.ending is not None:
            self._over.set()
        if group.waiting and self._runner.ending is None:
            self._start(group, group.waiting.popleft())
        else:
            group.free += 1
        if not task.cancelled() and (error := task.exception()) is not None:
            die_of(error)

    async def _run(self, call: Call) -> None:
        runner = self._runner
        run = runner.begin(call)
        if run is None:
            return
        task = asyncio.current_task()
        assert task is not None
        runner.interrupts(run, lambda: self._interrupt(task))
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                function, args, kwargs = runner.prepare(run)
                value = function(*args, **kwargs)
                if run.options.streams:
                    value = await produce_async(self._producer(run), run, value)
                elif inspect.isawaitable(value):
                    value = await value
            except BaseException as raised:  # noqa: BLE001 - see worker.raised
                if runner.runs_again(run, raised):
                    continue
                error = raised
            break
        runner.end(run, value, error)
        error = None  # its traceback refers to this frame, which refers to the arguments

    def _interrupt(self, task: asyncio.Task[None]) -> None:
        """Cancel a task.  Any thread."""
        self._loop.call_soon_threadsafe(task.cancel)

    async def _run_plain(self, call: PlainCall) -> None:
        observed, started = self._plain.begin(call)
        value: Any = None
        error: BaseException | None = None
        try:
            value = self._plain.invoke(call)
            if inspect.isawaitable(value):
                value = await value
        except BaseException as raised:  # noqa: BLE001 - see worker.raised
            error = raised
        self._plain.end(call, value, error, time.monotonic() - started if observed else None)
