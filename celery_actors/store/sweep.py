"""What becomes of the files in shared memory whose process is gone.

Only files of an owner whose marker is unlocked are removed. So two clusters that share a machine,
and its directory, keep the files of each other's living processes. They know nothing of each
other's stores: what a process of one had made may be removed by the other when the process is gone.
Private clusters have a directory of their own.

While the job of such a process runs:

* what holds no value goes: rings, values that were released, files kept to be written again, and
  copies of other nodes' values;
* a value stays as long as it is stored (in Redis). Whoever wants it reads there where it lies, and
  whoever releases it deletes it there. So what its process had made and never stored goes, and
  so does what nobody has refs to;
* arguments of a call are not stored: the call alone says where they lie. They stay as long as the
  actor that the call went to lives, but not for longer than results are kept;
* the value of a ref that is an argument of a call may be wanted in the same way, when all who have
  the ref are gone: it stays for as long as results are kept.

When the job is over all goes but

* arguments for an actor that lives: a detached one;
* values that are stored and that a living process's call made: the results of a detached actor
  outlive its process, as others do.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import monotonic

from celery_actors.ids import CALLER_BYTES, OBJECT_BYTES
from celery_actors.store.owners import lock_marker
from celery_actors.store.segment import NAME, HeldValue, held_value, is_ring

__all__ = ["Sweep"]


class Sweep:
    """Removes what processes that are gone have left.  Used by one thread.

    Args:
        stored: says of object ids whether their values are in the store.
        receives: whether an actor (16 bytes) may still run calls.
        lives: whether a process (by its caller id, 8 bytes) runs.
        keep_seconds: how long what calls carry stays after its process was found gone.
    """

    def __init__(
        self,
        stored: Callable[[Sequence[bytes]], Sequence[bool]],
        receives: Callable[[bytes], bool],
        lives: Callable[[bytes], bool],
        keep_seconds: float,
    ) -> None:
        self._stored = stored
        self._receives = receives
        self._lives = lives
        self._keep_seconds = keep_seconds
        self._gone: dict[Path, float] = {}  # by marker: since when we know that its process is gone

    def run(self, directory: Path, in_use: Callable[[str], bool]) -> int:
        """Look through a store's directory (or spill directory) once.

        Args:
            directory: where to look; other files in it are left alone.
            in_use: whether an owner's job runs. Asked once for each owner of whom there are files;
                of one that is not in use but whose process still runs, all is kept.

        Returns:
            How many files were removed.
        """
        removed = 0
        gone: dict[Path, float] = {}
        asked: list[tuple[Path, bytes]] = []
        receives, lives = functools.cache(self._receives), functools.cache(self._lives)
        for owner, marker, paths in _by_owner(directory):
            runs = in_use(owner)
            fd = lock_marker(marker)
            if fd is None:
                continue
            try:
                since = gone[marker] = self._gone.get(marker, monotonic())
                kept = 0
                for path in paths:
                    with contextlib.suppress(FileNotFoundError, PermissionError):
                        value = _value_in(path)
                        carried = wanted = False
                        if value is not None:
                            carried = self._is_carried(value, runs, since, receives)
                            wanted = runs or lives(value.object_id[:CALLER_BYTES])
                        elif runs and fd < 0 and not is_ring(path.name):
                            # Without a marker it may run and have written nothing itself: the
                            # flight recorders of a node's actors have its name.
                            wanted = True
                        if not (carried or wanted):
                            path.unlink()
                            removed += 1
                            continue
                        kept += 1
                        # What the process sent to the store before it was killed has arrived when
                        # its files are looked at for the second time.
                        if value and not carried and marker in self._gone:
                            asked.append((path, value.object_id[:OBJECT_BYTES]))
                if fd >= 0 and not kept:
                    marker.unlink(missing_ok=True)
            finally:
                if fd >= 0:
                    os.close(fd)
        self._gone = {m: t for m, t in self._gone.items() if m.parent != directory} | gone
        return removed + self._remove_unstored(asked)

    def _is_carried(
        self, value: HeldValue, runs: bool, since: float, receives: Callable[[bytes], bool]
    ) -> bool:
        """Whether a call that nobody has run may still want a value."""
        if monotonic() - since >= self._keep_seconds:
            return False
        receiver = value.object_id[OBJECT_BYTES:]
        return receives(receiver) if receiver else runs and value.carried

    def _remove_unstored(self, values: Sequence[tuple[Path, bytes]]) -> int:
        removed = 0
        stored = self._stored([oid for _, oid in values]) if values else ()
        for (path, _), is_stored in zip(values, stored, strict=True):
            if not is_stored:
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    path.unlink()
                    removed += 1
        return removed


def _value_in(path: Path) -> HeldValue | None:
    """Return the value in a file; none is in a ring, or a copy of another node's value."""
    value = None if is_ring(path.name) else held_value(path)
    return value if value is not None and value.object_id else None


def _by_owner(directory: Path) -> Iterator[tuple[str, Path, list[Path]]]:
    """Yield each owner of files in a directory, its marker, and its other files."""
    files: dict[tuple[str, str], list[Path]] = {}
    with contextlib.suppress(FileNotFoundError):
        for path in directory.iterdir():
            match = NAME.fullmatch(path.name)
            if match is not None:
                files.setdefault((match[3], path.name.rpartition("-")[0]), []).append(path)
    for (owner, prefix), paths in files.items():
        marker = directory / f"{prefix}-life"
        yield owner, marker, [path for path in paths if path != marker]
