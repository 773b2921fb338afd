"""ObjectRefGenerator: the refs of what a remote generator yields, as it yields them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, NoReturn, TypeVar

from celery_actors.client.objects import Entry
from celery_actors.client.streams import Stream
from celery_actors.refs import ObjectRef, task_id_of

__all__ = ["DynamicObjectRefGenerator", "ObjectRefGenerator"]

T_co = TypeVar("T_co", covariant=True)


class ObjectRefGenerator(Generic[T_co]):
    """Iterates over the refs of what a remote generator yields; ``async for`` does as well.

    A ref is returned as soon as its value is there.  Where the generator raised, the last
    ref raises it.  It belongs to the process that made the call and can't be passed on
    (as Ray's).

    Example::

        @ray.remote
        def count(n):
            yield from range(n)

        for ref in count.remote(3):
            print(ray.get(ref))     # 0, 1, 2
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._drop = stream.on_dropped()

    @property
    def stream(self) -> Stream:
        """This process's side of the stream (internal)."""
        return self._stream

    @property
    def end(self) -> Entry:
        """This process's record of the call's end (internal)."""
        return self._stream.end

    def __iter__(self) -> ObjectRefGenerator[T_co]:
        return self

    def __next__(self) -> ObjectRef[T_co]:
        return self._next_sync(None)

    def _next_sync(self, timeout_s: float | None = None) -> ObjectRef[T_co]:
        """Return the next ref, as ``next()``.

        :param timeout_s: the longest wait, in seconds; ``None``: no limit.
        :raises GetTimeoutError: it was not there in time.
        """
        entry = self._stream.next_entry(timeout_s)
        if entry is None:
            raise StopIteration
        return ObjectRef(entry)

    def __aiter__(self) -> ObjectRefGenerator[T_co]:
        return self

    async def __anext__(self) -> ObjectRef[T_co]:
        entry = await self._stream.next_entry_async()
        if entry is None:
            raise StopAsyncIteration
        return ObjectRef(entry)

    def completed(self) -> ObjectRef[Any]:
        """Return a ref that is ready when the generator has ended; its value is the number of
        refs.  Getting it raises if the generator's process died."""
        self._stream.end.refs += 1
        return ObjectRef(self._stream.end)

    def next_ready(self) -> bool:
        """Whether ``next()`` would not wait."""
        return self._stream.is_ready()

    def is_finished(self) -> bool:
        """Whether all refs were returned."""
        return self._stream.finished

    def task_id(self) -> str:
        """Return the id of the call, as Celery writes it."""
        return task_id_of(self._stream.end)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an ObjectRefGenerator belongs to the process that made the call and can't be "
            "serialized: pass the refs on that it returns"
        )

    def __repr__(self) -> str:
        return f"ObjectRefGenerator({self._stream.end.oid[:16].hex()})"

    def __del__(self) -> None:
        # A finalizer may run at any point of any thread: it only appends to a deque.
        drop = getattr(self, "_drop", None)
        if drop is not None:
            drop()


class DynamicObjectRefGenerator(Generic[T_co]):
    """The refs of what a generator with ``num_returns="dynamic"`` yielded: its one value.

    It can be passed on, and iterated over once.  Where the generator raised, the last ref
    raises it.  Ray's former way: ``num_returns="streaming"`` returns each ref as soon as its
    value is there.

    Example::

        @ray.remote(num_returns="dynamic")
        def count(n):
            yield from range(n)

        for ref in ray.get(count.remote(3)):
            print(ray.get(ref))     # 0, 1, 2
    """

    def __init__(self, refs: list[ObjectRef[T_co]]) -> None:
        self._refs = refs

    def __iter__(self) -> Iterator[ObjectRef[T_co]]:
        while self._refs:
            yield self._refs.pop(0)

    def __len__(self) -> int:
        return len(self._refs)
