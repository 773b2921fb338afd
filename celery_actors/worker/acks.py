"""Which deliveries may be acknowledged.

Guarantee: a delivery is acknowledged only when every call in it is finished, that is
committed (or was dropped on purpose), and nothing past an unfinished one is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

__all__ = ["Ack", "Acknowledgements", "ConcurrentAcknowledgements"]


class Ack(NamedTuple):
    """Acknowledge ``tag``; with ``multiple`` also all deliveries before it."""

    tag: int
    multiple: bool


class _Delivery(NamedTuple):
    tag: int
    caller: bytes
    last: int  # the highest sequence in it that must be finished first


class Acknowledgements:
    """Deliveries of the present connection, in order: of an actor that runs one call at a time.

    ``_finished`` is written by the executor (one caller's value only rises; storing an int
    in a dict is atomic), everything else belongs to the consumer's thread.
    """

    def __init__(self) -> None:
        self._finished: dict[bytes, int] = {}
        self._deliveries: deque[_Delivery] = deque()

    def __len__(self) -> int:
        return len(self._deliveries)

    def add(self, tag: int, caller: bytes, sequences: Sequence[int], fresh: Iterable[int]) -> None:
        """A delivery came with calls of these sequences.

        :param fresh: those that never came before; repeats may be finished already.
        """
        self._deliveries.append(_Delivery(tag, caller, sequences[-1] if sequences else 0))

    def committed(self, calls: Iterable[tuple[bytes, int]]) -> None:
        """Calls are finished.  Executor's or flusher's thread."""
        self._finished.update(calls)

    def forget(self, caller: bytes) -> None:
        """A caller is gone."""
        self._finished.pop(caller, None)

    def waits_for(self, caller: bytes) -> bool:
        """Whether a delivery of this caller is unacknowledged."""
        return any(delivery.caller == caller for delivery in self._deliveries)

    def due(self) -> list[Ack]:
        """Return what may be acknowledged now, and forget it."""
        finished, highest = self._finished, None
        while self._deliveries:
            delivery = self._deliveries[0]
            if delivery.last > finished.get(delivery.caller, 0):
                break
            highest = delivery.tag
            self._deliveries.popleft()
        return [] if highest is None else [Ack(highest, multiple=True)]

    def reset(self) -> None:
        """The connection is lost: its tags mean nothing any more.

        What was unacknowledged comes again; calls already accepted are then repeats, and
        their new delivery waits for the same sequences.
        """
        self._deliveries.clear()


class _Open:
    """A delivery with calls that are not finished."""

    __slots__ = ("caller", "left", "tag")

    def __init__(self, tag: int, caller: bytes, left: int) -> None:
        self.tag = tag
        self.caller = caller
        self.left = left


class ConcurrentAcknowledgements(Acknowledgements):
    """Of an actor that runs several calls at a time: each delivery on its own, once all its
    calls are finished; one that runs for ever holds back no other.

    ``_done`` is appended to by the committing threads (atomic), everything else belongs to
    the consumer's thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self._done: deque[tuple[bytes, int]] = deque()
        self._unfinished: dict[tuple[bytes, int], list[_Open]] = {}
        self._open: dict[int, _Open] = {}
        self._ready: list[Ack] = []

    def __len__(self) -> int:
        return len(self._open) + len(self._ready)

    def add(self, tag: int, caller: bytes, sequences: Sequence[int], fresh: Iterable[int]) -> None:
        """A delivery came with calls of these sequences."""
        for sequence in fresh:
            self._unfinished[caller, sequence] = []
        waited = [w for s in sequences if (w := self._unfinished.get((caller, s))) is not None]
        if not waited:
            self._ready.append(Ack(tag, multiple=False))
            return
        delivery = self._open[tag] = _Open(tag, caller, len(waited))
        for waiting in waited:
            waiting.append(delivery)

    def committed(self, calls: Iterable[tuple[bytes, int]]) -> None:
        """Calls are finished.  Any thread."""
        self._done.extend(calls)

    def forget(self, caller: bytes) -> None:
        """A caller is gone."""

    def waits_for(self, caller: bytes) -> bool:
        """Whether a delivery of this caller is unacknowledged."""
        return any(delivery.caller == caller for delivery in self._open.values())

    def due(self) -> list[Ack]:
        """Return what may be acknowledged now, and forget it."""
        while self._done:
            for delivery in self._unfinished.pop(self._done.popleft(), ()):
                delivery.left -= 1
                if delivery.left == 0 and self._open.pop(delivery.tag, None) is delivery:
                    self._ready.append(Ack(delivery.tag, multiple=False))
        ready, self._ready = self._ready, []
        return ready

    def reset(self) -> None:
        """The connection is lost: its tags mean nothing any more."""
        self._open.clear()
        self._ready.clear()
        for waiting in self._unfinished.values():
            waiting.clear()
