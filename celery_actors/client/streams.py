"""The consumer's side of streams: what generators of other processes yield.

Values arrive as pushes, each under the id of its place.  Since one producer makes them in
order, a value that came means that those before it are stored; the call's own return value
is their number.  So a lost push delays nobody for longer than it takes to see what follows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

from celery_actors.client.objects import Entry, ObjectState
from celery_actors.exceptions import GetTimeoutError
from celery_actors.ids import item_of_sequence, item_sequence, object_id, split_object_id

if TYPE_CHECKING:
    from celery_actors.client.process import Process

__all__ = ["Stream", "Streams"]


class Streams:
    """The streams of one process, by the task sequence of their calls.

    Changed under the process's lock; finalizers only append to :attr:`dropped`.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._streams: dict[int, Stream] = {}
        self.dropped: deque[Stream] = deque()

    def open(self, end: Entry, window: int) -> Stream:
        """Return the stream of the call whose return value is ``end``."""
        _, task, _ = split_object_id(end.oid)
        stream = Stream(self._process, end, task, window)
        with self._process.lock:
            self._streams[task] = stream
        return stream

    def arrived(self, sequence: int, place: int, state: ObjectState, value: bytes | None) -> None:
        """Take a pushed value that nobody waits for yet.  Under the lock."""
        item = item_of_sequence(sequence, place)
        stream = self._streams.get(item[0]) if item is not None else None
        if stream is not None and item is not None:
            stream.take(item[1], state, value)

    def collect(self) -> None:
        """Let go of the values of streams that nobody reads any more.  Under the lock."""
        while self.dropped:
            self.dropped.popleft().drop()
        over = [t for t, s in self._streams.items() if s.dropped and not s.end.pending]
        for task in over:
            del self._streams[task]

    def abandon(self) -> None:
        """This process takes a new id: what goes on arrives no more.  Under the lock."""
        self._streams.clear()


class Stream:
    """One generator call.

    Used by one thread (or event loop) at a time, as generators are; tables are changed
    under the process's lock.
    """

    def __init__(self, process: Process, end: Entry, task: int, window: int) -> None:
        self._process = process
        self._window = window
        self._items: dict[int, Entry] = {}
        self._next = 0
        self._arrived = 0  # values up to here are stored
        self._failed = False
        self._task = task
        self._tell_of_end: Callable[[], None] | None = None  # who waits now; None: nobody has yet
        self.end = end
        self.dropped = False

    def take(self, index: int, state: ObjectState, value: bytes | None) -> None:
        """A value came.  Under the lock."""
        self._arrived = max(self._arrived, index + 1)
        if index < self._next:
            return  # a repeat of one that was taken
        entry = self._items[index] = self._entry(index)
        self._process.objects.settle(entry, state, value)
        if self.dropped:
            del self._items[index]
            entry.dropped_refs.append(entry)

    def _entry(self, index: int) -> Entry:
        sequence, place = item_sequence(self._task, index)
        return self._process.objects.add(object_id(self._process.caller, sequence, place))

    def drop(self) -> None:
        """Nobody reads the stream any more.  Under the lock."""
        self.dropped = True
        for entry in self._items.values():
            entry.dropped_refs.append(entry)
        self._items.clear()
        self.end.dropped_refs.append(self.end)

    @property
    def finished(self) -> bool:
        """Whether all values were taken."""
        return self._failed or (not self.end.pending and self._look() is None)

    def _look(self) -> Entry | None:
        """Return the entry of the next value, pending if it may still come; ``None``: none
        will."""
        self.end.refuse_if_ended()
        process, index = self._process, self._next
        with process.lock:
            entry = self._items.get(index)
            if entry is None:
                entry = self._items[index] = self._entry(index)
            if not entry.pending:
                self._arrived = max(self._arrived, index + 1)
                return entry
            if self._arrived > index:
                process.objects.settle(entry, ObjectState.STORED)
                return entry
            if self.end.pending:
                return entry
        if self._failed:
            count, error = 0, None
        else:
            count, error = self._length()
        with process.lock:
            if error is not None:
                process.objects.settle(entry, ObjectState.FAILED, error=error)
            elif index < count:
                process.objects.settle(entry, ObjectState.STORED)
            else:
                del self._items[index]
                process.objects.entries.pop(entry.oid, None)
                return None
        return entry

    def _length(self) -> tuple[int, Exception | None]:
        """Return how many values there are, or why the stream broke off."""
        try:
            return int(self._process.values.load(self.end)), None
        except Exception as error:  # noqa: BLE001 - it becomes the next value's
            return 0, error.with_traceback(None)  # its frames refer to this stream

    def next_entry(self, timeout: float | None = None) -> Entry | None:
        """Wait for the next value and take it; ``None``: the stream is over.

        :raises GetTimeoutError: it did not come within ``timeout`` seconds.
        """
        process = self._process
        while (entry := self._look()) is not None and entry.pending:
            if not process.values.wait_for([entry, self.end], 1, timeout):
                raise GetTimeoutError(
                    f"the generator's value {self._next} was not there after {timeout:g} s"
                )
        return self._taken(entry)

    async def next_entry_async(self) -> Entry | None:
        """As :meth:`next_entry`, for event loops."""
        import asyncio

        while (entry := self._look()) is not None and entry.pending:
            await asyncio.wrap_future(self._settled(entry))
        return self._taken(entry)

    def _settled(self, entry: Entry) -> Future[None]:
        """Return a future that is done when the next value, or the end, is there."""
        future: Future[None] = Future()

        def done() -> None:
            if not future.done():
                future.set_result(None)

        process = self._process
        with process.lock:
            watches_end = self._tell_of_end is not None
            self._tell_of_end = done
            process.objects.when_settled([entry], done)
            if not self.end.pending:
                process.objects.after.append(done)
            elif not watches_end:  # once: a stream may have any number of values
                process.objects.when_settled([self.end], self._end_came)
        process.flush()
        process.run_after()
        process.listener.wake()
        return future

    def _end_came(self) -> None:
        if self._tell_of_end is not None:
            self._tell_of_end()

    def _taken(self, entry: Entry | None) -> Entry | None:
        if entry is None:
            return None
        with self._process.lock:
            self._items.pop(self._next, None)
            self._next += 1
            if entry.state is ObjectState.FAILED:
                self._failed = True
        if self._window >= 0:
            self._process.results.give_credit(self._process.caller, self._task)
        return entry

    def awaited(self) -> list[Entry]:
        """Return what has to be waited for until :meth:`is_ready` may be true; empty: it is."""
        entry = self._look()
        return [] if entry is None or not entry.pending else [entry, self.end]

    def is_ready(self) -> bool:
        """Whether the next value is there (or the stream over), without waiting."""
        self._process.flush()
        entry = self._look()
        return entry is None or not entry.pending

    def on_dropped(self) -> Callable[[], None]:
        """Return what the generator's finalizer calls: it only appends to a deque."""
        dropped = self._process.streams.dropped
        return lambda: dropped.append(self)
