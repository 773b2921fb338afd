"""Queue: first in, first out, between any processes of the cluster; an asyncio actor holds it."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterable, Mapping
from typing import Any

from celery_actors.api import get, kill, wait
from celery_actors.exceptions import ActorError
from celery_actors.handle import ActorHandle
from celery_actors.remote import remote

__all__ = ["Empty", "Full", "Queue"]


class Empty(queue.Empty):
    """There was no item (in time)."""


class Full(queue.Full):
    """There was no room (in time)."""


class Queue:
    """A queue that its creator, actors and tasks share (as Ray's ``util.queue.Queue``).

    It travels as an argument or inside one; its actor lives while any of these does.  Items
    that are refs at top level arrive as their values.

    :param maxsize: how many items it holds at most; 0: any number.
    :param actor_options: of its actor, e.g. ``{"num_cpus": 1}``.

    Example::

        queue = Queue(maxsize=100)
        produce.remote(queue)
        print(queue.get(timeout=10))
    """

    def __init__(self, maxsize: int = 0, actor_options: Mapping[str, Any] | None = None) -> None:
        self.maxsize = maxsize
        options = dict(actor_options or {})
        self.actor: Any = remote(_QueueActor).options(**options).remote(maxsize)

    @classmethod
    def _of(cls, maxsize: int, actor: ActorHandle[Any] | None) -> Queue:
        made = cls.__new__(cls)
        made.maxsize, made.actor = maxsize, actor
        return made

    def __reduce__(self) -> tuple[Any, tuple[int, ActorHandle[Any] | None]]:
        return type(self)._of, (self.maxsize, self.actor)

    def __len__(self) -> int:
        return self.size()

    def size(self) -> int:
        """Return how many items are in it."""
        number: int = get(self._actor.qsize.remote())
        return number

    def qsize(self) -> int:
        """Return how many items are in it."""
        return self.size()

    def empty(self) -> bool:
        """Whether no item is in it."""
        return bool(get(self._actor.empty.remote()))

    def full(self) -> bool:
        """Whether there is no room in it."""
        return bool(get(self._actor.full.remote()))

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add an item.

        :param block: wait for room; else there must be some now.
        :param timeout: seconds to wait at most; ``None`` waits for ever.
        :raises Full: there was no room (in time).
        :raises ValueError: ``timeout`` is negative.
        """
        get(self._put(item, block, timeout))

    async def put_async(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """As :meth:`put`, for ``async def`` code."""
        await self._put(item, block, timeout)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the oldest item out.

        :param block: wait for one; else there must be one now.
        :param timeout: seconds to wait at most; ``None`` waits for ever.
        :raises Empty: there was none (in time).
        :raises ValueError: ``timeout`` is negative.
        """
        return get(self._get(block, timeout))

    async def get_async(self, block: bool = True, timeout: float | None = None) -> Any:
        """As :meth:`get`, for ``async def`` code."""
        return await self._get(block, timeout)

    def put_nowait(self, item: Any) -> None:
        """Add an item, for which there must be room."""
        self.put(item, block=False)

    def put_nowait_batch(self, items: Iterable[Any]) -> None:
        """Add items in order, all or none.

        :raises Full: there is no room for all.
        :raises TypeError: ``items`` can't be iterated over.
        """
        if not isinstance(items, Iterable):
            raise TypeError(f"items must be iterable, not {items!r:.100}")
        get(self._actor.put_nowait_batch.remote(list(items)))

    def get_nowait(self) -> Any:
        """Take the oldest item out; there must be one."""
        return self.get(block=False)

    def get_nowait_batch(self, num_items: int) -> list[Any]:
        """Take the oldest ``num_items`` items out, all or none.

        :raises Empty: there are fewer.
        :raises TypeError, ValueError: ``num_items`` is no whole number of 0 or more.
        """
        if not isinstance(num_items, int):
            raise TypeError(f"num_items must be an int, not {num_items!r:.100}")
        if num_items < 0:
            raise ValueError(f"num_items must not be negative, got {num_items}")
        items: list[Any] = get(self._actor.get_nowait_batch.remote(num_items))
        return items

    def shutdown(self, force: bool = False, grace_period_s: float = 5) -> None:
        """End the queue's actor; what is in the queue is lost.

        :param force: at once; else calls made before are done first.
        :param grace_period_s: seconds for these, after which it is killed in any case.
        """
        actor, self.actor = self.actor, None
        if actor is None:
            return
        if not force:
            over, _ = wait([actor.__ray_terminate__.remote()], timeout=grace_period_s)
            if over:
                return
        kill(actor)

    @property
    def _actor(self) -> Any:
        if self.actor is None:
            raise ActorError("the queue was shut down: its actor is gone")
        return self.actor

    def _put(self, item: Any, block: bool, timeout: float | None) -> Any:
        if not block or _checked(timeout) == 0:
            return self._actor.put_nowait.remote(item)
        return self._actor.put.remote(item, timeout)

    def _get(self, block: bool, timeout: float | None) -> Any:
        if not block or _checked(timeout) == 0:
            return self._actor.get_nowait.remote()
        return self._actor.get.remote(timeout)


def _checked(timeout: float | None) -> float | None:
    if timeout is not None and timeout < 0:
        raise ValueError(f"timeout must not be negative, got {timeout}")
    return timeout


class _QueueActor:
    def __init__(self, maxsize: int) -> None:
        self._items: asyncio.Queue[Any] = asyncio.Queue(maxsize)

    def qsize(self) -> int:
        return self._items.qsize()

    def empty(self) -> bool:
        return self._items.empty()

    def full(self) -> bool:
        return self._items.full()

    async def put(self, item: Any, timeout: float | None) -> None:
        try:
            await asyncio.wait_for(self._items.put(item), timeout)
        except asyncio.TimeoutError:
            raise Full(f"there was no room in the queue for {timeout:g} s") from None

    async def get(self, timeout: float | None) -> Any:
        try:
            return await asyncio.wait_for(self._items.get(), timeout)
        except asyncio.TimeoutError:
            raise Empty(f"there was no item in the queue for {timeout:g} s") from None

    def put_nowait(self, item: Any) -> None:
        self.put_nowait_batch([item])

    def put_nowait_batch(self, items: list[Any]) -> None:
        held, most = self._items.qsize(), self._items.maxsize
        if most > 0 and held + len(items) > most:
            raise Full(f"{len(items)} items don't fit: the queue holds {held} of at most {most}")
        for item in items:
            self._items.put_nowait(item)

    def get_nowait(self) -> Any:
        return self.get_nowait_batch(1)[0]

    def get_nowait_batch(self, number: int) -> list[Any]:
        if number > self._items.qsize():
            raise Empty(f"the queue holds {self._items.qsize()} items, not {number}")
        return [self._items.get_nowait() for _ in range(number)]
