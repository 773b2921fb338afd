"""Large values: this process's part of the node's shared memory, and other nodes' through Redis.

A process on the machine where a segment lies maps it.  Elsewhere, the node worker of the
segment's node is asked (an order through RabbitMQ) and sends the bytes through a Redis
list in chunks, at most :data:`_AHEAD` of them ahead of the reader.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Any, cast

import redis

from celery_actors.config import Settings
from celery_actors.exceptions import ObjectFetchTimedOutError
from celery_actors.ids import node_queue_name
from celery_actors.protocol.orders import Order, OrderKind
from celery_actors.store.rings import Rings
from celery_actors.store.shm import Segment, SegmentLost, SharedMemoryStore

__all__ = ["Segments", "make_store", "send_segment", "spill_directory"]

_CHUNK = 1 << 20
_AHEAD = 16
_RECYCLE = 256 << 20
_PATIENCE = 30.0


def spill_directory(settings: Settings) -> Path:
    """Return where large values go when memory is full."""
    return Path(settings.spill_dir or Path(tempfile.gettempdir()) / f"ca-spill-{os.getuid()}")


def make_store(settings: Settings, node: str, owner: str) -> SharedMemoryStore:
    """Return a store in the configured directories."""
    return SharedMemoryStore(
        node,
        owner,
        directory=Path(settings.shared_memory_dir),
        spill=spill_directory(settings),
        recycle_bytes=_RECYCLE,
    )


class Segments:
    """The large values that one process writes and reads."""

    def __init__(
        self,
        client: redis.Redis,
        settings: Settings,
        *,
        node: str,
        owner: str,
        order: Callable[[str, Order], None],
    ) -> None:
        self._redis = client
        self._prefix = settings.prefix
        self._order = order
        self._settings = settings
        self._node = node
        self.store = make_store(settings, node, owner)
        self.rings = Rings(self.store)

    def belongs_to(self, node: str) -> None:
        """Say which node serves what this process writes to the others."""
        self._node = self.store.node = node

    def reopen(self, owner: str) -> None:
        """In a forked child, or under a new caller id: write under an owner of its own."""
        self.rings.close()
        self.store = make_store(self._settings, self._node, owner)
        self.rings = Rings(self.store)

    def write(self, object_id: bytes, frames: Sequence[memoryview]) -> Segment:
        """Write an object's frames, under the present owner.

        :param object_id: for the file's header; of a call's arguments, with the receiver behind it.
        """
        return self.store.write(object_id, frames)

    def read(self, segment: Segment) -> list[memoryview]:
        """Map a segment's frames; fetch it from its node first where it isn't here.

        :raises SegmentLost: it was released, or its node is gone.
        :raises ObjectFetchTimedOutError: its node did not send it in time.
        """
        try:
            return self.store.read(segment)
        except SegmentLost:
            if not segment.node or segment.node == self.store.node:
                raise
        copy = self.store.adopt(b"", segment.lengths, self._fetch(segment))
        frames = self.store.read(copy)
        self.store.release(copy)  # the views keep the memory
        return frames

    def _fetch(self, segment: Segment) -> Iterator[bytes]:
        key = f"{self._prefix}x:{os.urandom(8).hex()}"
        order = Order(OrderKind.FETCH, segment.to_bytes().hex(), reply_to=key)
        self._order(node_queue_name(segment.node), order)
        left = sum(segment.lengths)
        while left > 0:
            item = cast("Any", self._redis.blpop([key], timeout=_PATIENCE))
            if item is None:
                raise ObjectFetchTimedOutError(
                    f"segment {segment.name} did not come from node {segment.node} within "
                    f"{_PATIENCE:g} s: is that node overloaded, or cut off from RabbitMQ?"
                )
            if not item[1]:
                raise SegmentLost(
                    f"segment {segment.name} could not be fetched from node {segment.node}"
                )
            left -= len(item[1])
            yield item[1]

    def release(self, segment: Segment) -> None:
        """The last ref to a value in shared memory is gone: free it on its node."""
        if self.store.has(segment) or not segment.node or segment.node == self.store.node:
            self.store.release(segment)
        else:
            order = Order(OrderKind.FREE, segment.to_bytes().hex())
            self._order(node_queue_name(segment.node), order)

    def close(self) -> None:
        """Remove what this process still owns."""
        self.rings.close()
        self.store.close()

    def leave(self) -> None:
        """End the process, and leave its values to those who hold refs to them."""
        self.rings.close()
        self.store.leave()


def send_segment(client: redis.Redis, store: SharedMemoryStore, segment: Segment, key: str) -> None:
    """Send a segment's bytes to whoever reads the Redis list ``key``.

    An empty item says that the segment is lost.  Gives up when the reader stops reading.
    """
    try:
        for chunk in store.chunks(segment, _CHUNK):
            client.rpush(key, chunk)
            client.expire(key, int(_PATIENCE))
            deadline = monotonic() + _PATIENCE
            while client.llen(key) > _AHEAD:
                if monotonic() > deadline:
                    client.unlink(key)
                    return
                sleep(0.002)  # the reader's pace; a list gives no signal when it shrinks
    except SegmentLost:
        client.rpush(key, b"")
        client.expire(key, int(_PATIENCE))
