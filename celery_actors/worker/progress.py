"""Which of the calls that this actor took are finished: the source of its cursors."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile

from celery_actors.protocol.cursors import Cursor

__all__ = ["ConcurrentProgress", "Progress"]


class Progress:
    """Of an actor that runs one call at a time: what finished last says it all.

    Used under the lock with which :class:`~celery_actors.worker.commits.Commits` gathers.
    """

    def __init__(self) -> None:
        self._high: dict[bytes, int] = {}

    def resume(self, cursors: Mapping[bytes, Cursor]) -> None:
        """Go on where an earlier incarnation ended."""
        self._high = {caller: cursor.high for caller, cursor in cursors.items()}

    def begin(self, caller: bytes, sequence: int) -> None:
        """A call was taken; called in the order of each caller's sequences."""

    def finish(self, caller: bytes, sequence: int) -> None:
        """A call is finished."""
        self._high[caller] = sequence

    def cursor(self, caller: bytes) -> Cursor:
        """Return what is to be stored for ``caller``."""
        return Cursor(self._high.get(caller, 0))

    def is_finished(self, caller: bytes, sequence: int) -> bool:
        """Whether a call is finished (committed or about to be)."""
        return sequence <= self._high.get(caller, 0)

    def forget(self, caller: bytes) -> None:
        """A caller is gone."""
        self._high.pop(caller, None)


class ConcurrentProgress(Progress):
    """Of an actor that runs several calls at a time: they finish in any order."""

    def __init__(self) -> None:
        super().__init__()
        self._running: dict[bytes, dict[int, None]] = {}

    def resume(self, cursors: Mapping[bytes, Cursor]) -> None:
        """Go on where an earlier incarnation ended: what it left unfinished comes again."""
        super().resume(cursors)
        self._running = {c: dict.fromkeys(cursor.unfinished) for c, cursor in cursors.items()}

    def begin(self, caller: bytes, sequence: int) -> None:
        """A call was taken; called in the order of each caller's sequences."""
        self._running.setdefault(caller, {})[sequence] = None

    def finish(self, caller: bytes, sequence: int) -> None:
        """A call is finished."""
        self._running.get(caller, {}).pop(sequence, None)
        self._high[caller] = max(self._high.get(caller, 0), sequence)

    def cursor(self, caller: bytes) -> Cursor:
        """Return what is to be stored for ``caller``."""
        high = self._high.get(caller, 0)
        running = self._running.get(caller, {})
        return Cursor(high, tuple(takewhile(high.__gt__, running)))

    def is_finished(self, caller: bytes, sequence: int) -> bool:
        """Whether a call is finished (committed or about to be)."""
        return super().is_finished(caller, sequence) and sequence not in self._running.get(
            caller, {}
        )

    def forget(self, caller: bytes) -> None:
        """A caller is gone."""
        super().forget(caller)
        self._running.pop(caller, None)
