"""The executor of asyncio actors: calls are tasks on event loops, one for each concurrency group.

A class with an ``async def`` method is an asyncio actor (as in Ray): all its methods run
on its group's loop, plain ones too, up to the limit of the group, and begin in the order in
which they were submitted.  The default group's loop is in the main thread.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from queue import SimpleQueue
from typing import Any

from celery_actors.protocol.calls import Call
from celery_actors.protocol.concurrency import Concurrency
from celery_actors.tracebacks import formatted
from celery_actors.worker.executor import Executor, die_of
from celery_actors.worker.plain_messages import PLAIN_CALLER, PlainCall
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
    """The calls of one concurrency group: those that run are counted, the others wait.

    Each group has an event loop in a thread of its own (as in Ray), so that a call which blocks
    its thread holds up the calls of its group only.  Everything but :meth:`submit` and
    :meth:`interrupt` is done in that thread.

    :param begin: makes what runs a call.
    :param is_over: whether the actor ended itself: then no more calls are begun.
    :param finished: said of each call that is over, or that will not be begun.
    :param raised_outside: takes what stops the loop, and no call has raised.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limit: int,
        begin: Callable[[_Group, Call | PlainCall], Coroutine[Any, Any, None]],
        is_over: Callable[[], bool],
        finished: Callable[[], None],
        raised_outside: Callable[[BaseException], None],
    ) -> None:
        self.loop = loop
        self._begin = begin
        self._is_over = is_over
        self._finished = finished
        self._raised_outside = raised_outside
        self._stopped = False
        self._free = limit
        self._waiting: deque[Call | PlainCall] = deque()
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself keeps weak references

    def run(self) -> None:
        """Run the loop until it is told to stop: the thread of a group that has a name."""
        asyncio.set_event_loop(self.loop)
        while not self._stopped:
            try:
                self.loop.run_forever()
            except BaseException as raised:  # noqa: BLE001 - of a task of user code's own
                self._raised_outside(raised)

    def stop(self) -> None:
        """Have :meth:`run` return."""
        self._stopped = True
        self.loop.stop()

    def take(self, call: Call | PlainCall) -> None:
        """Begin a call, now or when the limit allows it."""
        if self._free > 0:
            self._free -= 1
            self._start(call)
        else:
            self._waiting.append(call)

    def give_up(self) -> None:
        """The actor ended itself: what waits is not run."""
        while self._waiting:
            self._waiting.popleft()
            self._finished()

    def interrupt(self, task: asyncio.Task[None]) -> None:
        """Cancel a task.  Any thread."""
        self.loop.call_soon_threadsafe(task.cancel)

    def _start(self, call: Call | PlainCall) -> None:
        if self._is_over():
            self._free += 1
            self._finished()
            return
        task = self.loop.create_task(self._begin(self, call))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._is_over():
            self.give_up()
        if self._waiting:
            self._start(self._waiting.popleft())
        else:
            self._free += 1
        self._finished()
        if not task.cancelled() and (error := task.exception()) is not None:
            die_of(error)


class AsyncExecutor(Executor):
    """Runs calls as asyncio tasks.

    The default group's loop runs in the main thread.  It also takes calls from the inbox, unless
    the actor has other groups: then a thread of its own does that, which nobody blocks.
    """

    def __init__(
        self, *args: Any, concurrency: Concurrency, progress: Progress, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        inbox = self._inbox
        assert isinstance(inbox, LoopInbox)
        self._loop_inbox = inbox
        self._loop = inbox.loop
        self._progress = progress
        self._groups = {
            name: _Group(
                asyncio.new_event_loop() if name else self._loop,
                limit,
                self._run_in,
                lambda: self._runner.ending is not None,
                self._call_finished,
                self._raised_outside,
            )
            for name, limit in concurrency.groups.items()
        }
        self._named = [group for name, group in self._groups.items() if name]
        # Guards _busy: the number of calls that wait in the groups or run.  Held for a moment.
        self._busy_lock = threading.Lock()
        self._busy = 0
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
            self._loop_inbox.put(None)
        else:
            logger.error("a task on the event loop raised:\n%s", formatted(error))

    def run(self) -> str:
        """Run until the actor is over and its tasks are at rest; returns why."""
        self._runner.cancels_coroutines = True
        self._run_through(self._serve())
        self._commits.settle()
        self._request_acks()
        assert self._runner.stop is not None
        return self._runner.stop

    async def _serve(self) -> None:
        self._loop.call_later(_COLLECT_EVERY, self._collect)
        if self._named:
            for name, group in self._groups.items():
                if name:
                    self._begin_thread(group.run, name)
            self._begin_thread(self._dispatch, "dispatcher")
        else:
            self._loop_inbox.arrived = self._empty_inbox
            self._empty_inbox()
        # What runs ends first; if the actor did not end itself, also what was submitted.
        await self._over.wait()
        for group in self._named:
            group.loop.call_soon_threadsafe(group.stop)

    def _begin_thread(self, target: Callable[[], None], name: str) -> None:
        # A daemon: a loop whose call never returns must not keep a killed actor alive.
        threading.Thread(target=target, name=f"celery-actors-{name}", daemon=True).start()

    def _dispatch(self) -> None:
        while not self._over.is_set():
            self._take(self._inbox.get())
            self._end_if_at_rest()

    def _empty_inbox(self) -> None:
        # Also of an actor that nobody holds any more: what still runs may have called it, and
        # wait for that.
        while not self._loop_inbox.empty() and self._runner.ending is None:
            self._take(self._inbox.get_nowait())
        self._end_if_at_rest()

    def _call_finished(self) -> None:
        """A call is over, or will not be begun.  Any group's thread."""
        with self._busy_lock:
            self._busy -= 1
        if self._runner.stop is not None:
            self._loop_inbox.put(None)

    def _end_if_at_rest(self) -> None:
        """Look whether the actor is over.  The thread that takes calls from the inbox."""
        if self._runner.stop is None:
            return
        if self._runner.ending is not None:
            for group in self._groups.values():
                group.loop.call_soon_threadsafe(group.give_up)
        with self._busy_lock:
            at_rest = not self._busy
        if at_rest or self._runner.crashed:  # then what runs is lost with the process
            self._loop.call_soon_threadsafe(self._over.set)

    def _collect(self) -> None:
        """Take back files of shared memory: others release them by a mark, which wakes nobody."""
        store = self._process.segments.store
        if store.owns_files:
            store.collect()
        self._loop.call_later(_COLLECT_EVERY, self._collect)

    def _take(self, item: Any) -> None:
        if self._runner.ending is not None:  # what comes now is not run
            return
        if isinstance(item, PlainCall):
            self._progress.begin(PLAIN_CALLER, item.sequence)
            self._hand_over(self._groups[self._plain.group(item, self._groups)], item)
        elif isinstance(item, list):
            for call in item:
                self._progress.begin(call.caller, call.sequence)
                if self._runner.is_special(call):
                    self._runner.do_special(call)
                else:
                    self._hand_over(self._groups[self._runner.group(call, self._groups)], call)
        elif item is not None:  # None: a call is over
            super()._take(item)

    def _hand_over(self, group: _Group, call: Call | PlainCall) -> None:
        with self._busy_lock:
            self._busy += 1
        if self._named:
            group.loop.call_soon_threadsafe(group.take, call)
        else:
            group.take(call)

    def _run_in(self, group: _Group, call: Call | PlainCall) -> Coroutine[Any, Any, None]:
        return self._run_plain(call) if isinstance(call, PlainCall) else self._run(group, call)

    async def _run(self, group: _Group, call: Call) -> None:
        runner = self._runner
        run = runner.begin(call)
        if run is None:
            return
        task = asyncio.current_task()
        assert task is not None
        runner.interrupts(run, lambda: group.interrupt(task))
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                function, args, kwargs = runner.prepare(run)
                value = function(*args, **kwargs)
                if run.options.streams:
                    value = await produce_async(
                        self._producer(run), value, lambda: self._invoke(run)
                    )
                elif inspect.isawaitable(value):
                    value = await value
            except BaseException as raised:  # noqa: BLE001 - see worker.raised
                if runner.runs_again(run, raised):
                    continue
                error = raised
            break
        runner.end(run, value, error)
        error = None  # its traceback refers to this frame, which refers to the arguments

    async def _run_plain(self, call: PlainCall) -> None:
        if self._plain.is_withdrawn(call):
            return
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
