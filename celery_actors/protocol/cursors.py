"""Cursors: which of a caller's calls an actor has finished.

Stored as text in the actor's hash of cursors, a field a caller: ``"12"`` when the calls up
to 12 are finished, ``"12;7;9"`` when 7 and 9 of these still run (actors that run several
calls at a time).  Sequences that the caller used elsewhere are in no mailbox, so they
count as neither.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Cursor"]


class Cursor(NamedTuple):
    """All calls up to ``high`` are finished, but those in ``unfinished`` (rising)."""

    high: int
    unfinished: tuple[int, ...] = ()

    def covers(self, sequence: int) -> bool:
        """Whether the call with that sequence is finished."""
        return sequence <= self.high and sequence not in self.unfinished

    def covers_from(self, start: int, end: int) -> bool:
        """Whether all calls past ``start`` up to ``end`` are finished."""
        return end <= self.high and not any(start < n <= end for n in self.unfinished)

    def text(self) -> str:
        """Return its stored form."""
        return ";".join(map(str, (self.high, *self.unfinished)))

    @classmethod
    def parse(cls, stored: bytes | None) -> Cursor:
        """Return the cursor of a stored form; nothing stored: nothing is finished."""
        high, *unfinished = map(int, (stored or b"0").split(b";"))
        return cls(high, tuple(unfinished))
