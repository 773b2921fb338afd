"""Holds: this process keeps an actor alive while a handle to it lives here.

One hold a (process, actor): a :class:`Hold` object that all strong handles share.  When
the garbage collector takes it, the release travels in the mailbox behind this process's
last call to the actor, so it can't overtake calls (PROTOCOL, Holds).
"""

from __future__ import annotations

from collections import deque
from weakref import WeakValueDictionary

__all__ = ["Hold", "HoldTable"]


class Hold:
    """This process's hold on one actor.

    :ivar owner: the token under which the hold stands in the actor's record.  Each time
        that the process takes a new hold it uses a new token, so that a release still
        under way can't take the new hold with it.
    """

    __slots__ = ("__weakref__", "_released", "actor", "owner")

    def __init__(self, actor: bytes, owner: str, released: deque[tuple[bytes, str]]) -> None:
        self.actor = actor
        self.owner = owner
        self._released = released

    def __del__(self) -> None:
        # May run at any point of any thread: it only appends to a deque.
        self._released.append((self.actor, self.owner))

    def __repr__(self) -> str:
        return f"<Hold {self.owner} on {self.actor.hex()}>"


class HoldTable:
    """The holds of one process.  Changed under the process's lock."""

    def __init__(self, caller: str) -> None:
        self._caller = caller
        self._generation = 0
        self._holds: WeakValueDictionary[bytes, Hold] = WeakValueDictionary()
        self.released: deque[tuple[bytes, str]] = deque()

    def get(self, actor: bytes) -> Hold | None:
        """Return the process's hold on ``actor``, if it has one."""
        return self._holds.get(actor)

    def new_owner(self) -> str:
        """Return a token for a new hold."""
        self._generation += 1
        return f"{self._caller}/p{self._generation}"

    def add(self, actor: bytes, owner: str) -> Hold:
        """Remember a hold that stands in the actor's record."""
        hold = Hold(actor, owner, self.released)
        self._holds[actor] = hold
        return hold

    def all(self) -> list[Hold]:
        """Return all holds."""
        return list(self._holds.values())

    def __len__(self) -> int:
        return len(self._holds)
