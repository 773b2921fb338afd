"""What actors print, shown by the driver (as Ray does with ``log_to_driver``).

The kernel says when a file in the directory grows (inotify): a thread that looked by itself
would never let an idle program sleep, and costs more with every actor.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import select
import sys
import threading
from pathlib import Path
from typing import TextIO

__all__ = ["follow_logs", "stop_following"]

logger = logging.getLogger(__name__)

_AT_MOST_EVERY = 0.05  # seconds: who prints line after line has them shown together
_LOOK_EVERY = 0.25  # where the kernel can't tell, as when a user has no watch left
_IN_MODIFY, _IN_CREATE = 0x2, 0x100
_libc = ctypes.CDLL(None, use_errno=True)

_changes: _Changes | None = None
_thread: threading.Thread | None = None


def follow_logs(session_dir: str, job_id: str, out: TextIO | None = None) -> None:
    """Print new lines of the log files of a job's actors, from a background thread."""
    global _changes, _thread
    stop_following()
    directory = Path(session_dir) / "logs" / job_id
    _changes = _Changes(directory)
    _thread = threading.Thread(
        target=_follow,
        args=(directory, _changes, out or sys.stderr),
        name="celery-actors-logs",
        daemon=True,
    )
    _thread.start()


def stop_following() -> None:
    """Print what is left, and end the thread."""
    global _changes, _thread
    if _changes is not None and _thread is not None:
        _changes.stop()
        _thread.join(timeout=2)
    _changes = _thread = None


class _Changes:
    """Says when files in a directory may have changed."""

    def __init__(self, directory: Path) -> None:
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._inotify = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._inotify >= 0:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            watched = _libc.inotify_add_watch(
                self._inotify, os.fsencode(directory), _IN_MODIFY | _IN_CREATE
            )
            if watched < 0:
                os.close(self._inotify)
                self._inotify = -1
        if self._inotify < 0:
            logger.debug("no inotify: %s", os.strerror(ctypes.get_errno()))

    def wait(self) -> bool:
        """Wait until there may be something new; False: that was the last time."""
        stop = select.poll()
        stop.register(self._stop, select.POLLIN)
        if self._inotify < 0:
            return not stop.poll(_LOOK_EVERY * 1000)
        both = select.poll()
        both.register(self._stop, select.POLLIN)
        both.register(self._inotify, select.POLLIN)
        both.poll()
        goes_on = not stop.poll(_AT_MOST_EVERY * 1000)
        with contextlib.suppress(BlockingIOError):
            while os.read(self._inotify, 65536):
                pass
        return goes_on

    def stop(self) -> None:
        """End the wait.  Any thread."""
        os.eventfd_write(self._stop, 1)

    def close(self) -> None:
        """Let go of the descriptors."""
        os.close(self._stop)
        if self._inotify >= 0:
            os.close(self._inotify)


def _follow(directory: Path, changes: _Changes, out: TextIO) -> None:
    offsets: dict[str, int] = {}
    goes_on = True
    while goes_on:
        goes_on = changes.wait()
        for name, size in _sizes(directory):
            start = offsets.get(name, 0)
            while size > start and (shown := _show(directory / name, start, out)):
                start = offsets[name] = start + shown
    changes.close()


def _sizes(directory: Path) -> list[tuple[str, int]]:
    try:
        with os.scandir(directory) as entries:
            return [(e.name, e.stat().st_size) for e in entries if e.name.endswith(".log")]
    except FileNotFoundError:
        return []


def _show(path: Path, start: int, out: TextIO) -> int:
    """Print the complete lines after ``start``; returns how many bytes they were."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(1 << 20)
    except FileNotFoundError:
        return 0
    end = data.rfind(b"\n") + 1
    if not end and len(data) < 1 << 20:
        return 0
    data = data[: end or len(data)]
    who = path.name.removesuffix(".log").partition("@")[0]
    for line in data.decode(errors="replace").splitlines():
        print(f"({who}) {line}", file=out, flush=True)
    return len(data)
