"""Which deliveries may be acknowledged.

Guarantee: a delivery is acknowledged only when every call in it is finished, that is
committed (or was dropped on purpose), and nothing past an unfinished one is.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

__all__ = ["Acknowledgements"]


class _Delivery(NamedTuple):
    tag: int
    caller: bytes
    last: int  # the highest sequence in it that must be finished first


class Acknowledgements:
    """Deliveries of the present connection, in order.

    ``finished`` is written by the executor (one caller's value only rises; storing an int
    in a dict is atomic), everything else belongs to the consumer's thread.
    """

    def __init__(self) -> None:
        self.finished: dict[bytes, int] = {}
        self._deliveries: deque[_Delivery] = deque()

    def __len__(self) -> int:
        return len(self._deliveries)

    def add(self, tag: int, caller: bytes, last: int) -> None:
        """A delivery came; it is finished when the caller's calls up to ``last`` are."""
        self._deliveries.append(_Delivery(tag, caller, last))

    def waits_for(self, caller: bytes) -> bool:
        """Whether a delivery of this caller is unacknowledged."""
        return any(delivery.caller == caller for delivery in self._deliveries)

    def due(self) -> int | None:
        """Return the tag up to which all deliveries are finished, and forget them."""
        finished, highest = self.finished, None
        while self._deliveries:
            delivery = self._deliveries[0]
            if delivery.last > finished.get(delivery.caller, 0):
                break
            highest = delivery.tag
            self._deliveries.popleft()
        return highest

    def reset(self) -> None:
        """The connection is lost: its tags mean nothing any more.

        What was unacknowledged comes again; calls already accepted are then repeats, and
        their new delivery waits for the same sequences.
        """
        self._deliveries.clear()
