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
import time
from pathlib import Path
from typing import TextIO

__all__ = ["follow_logs", "stop_following"]

logger = logging.getLogger(__name__)

_AT_MOST_EVERY = 0.05  # seconds between two looks: lines that come fast are shown together
_LOOK_EVERY = 0.25  # where the kernel can't tell, as when a user has no watch left
_UNFINISHED_AFTER = 1.0  # seconds without a change, after which a line without an end is shown
_MOST_BYTES = 1 << 20  # of a file, read at a time
_MOST_AT_THE_END = 15.0  # seconds for what is left: the output may be a pipe that nobody reads
_IN_MODIFY, _IN_CREATE = 0x2, 0x100
_libc = ctypes.CDLL(None, use_errno=True)

_changes: _Changes | None = None
_thread: threading.Thread | None = None


def follow_logs(session_dir: str, job_id: str, out: TextIO | None = None) -> None:
    """Print new lines of the log files of a job's actors, from a background thread."""
    global _changes, _thread
    stop_following()
    out = out or sys.stderr
    if out is None:  # it was closed before this program began
        return
    directory = Path(session_dir) / "logs" / job_id
    _changes = _Changes(directory)
    _thread = threading.Thread(
        target=_follow,
        args=(directory, _changes, out),
        name="celery-actors-logs",
        daemon=True,
    )
    _thread.start()


def stop_following() -> None:
    """Print what is left, and end the thread."""
    global _changes, _thread
    if _changes is not None and _thread is not None:
        _changes.stop()
        _thread.join(_MOST_AT_THE_END)
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

    def wait(self, unfinished: bool) -> bool:
        """Wait until there may be something new; False: that was the last time.

        :param unfinished: there is a line without an end, to be shown after a while.
        """
        stop = select.poll()
        stop.register(self._stop, select.POLLIN)
        if self._inotify < 0:
            return not stop.poll(_LOOK_EVERY * 1000)
        both = select.poll()
        both.register(self._stop, select.POLLIN)
        both.register(self._inotify, select.POLLIN)
        if not both.poll(_UNFINISHED_AFTER * 1000 if unfinished else None):
            return True
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
    files: dict[str, _File] = {}
    goes_on = True
    while goes_on:
        goes_on = changes.wait(any(file.unfinished for file in files.values()))
        for name, size in _sizes(directory):
            file = files.get(name)
            if file is None:
                file = files[name] = _File(directory / name)
            try:
                file.show(size, out, whole=not goes_on)
            except (OSError, ValueError) as error:
                # The output is closed, or a pipe that nobody reads: as of print() in a thread.
                logger.debug("what actors print can't be shown: %s", error)
    changes.close()


class _File:
    """How much of a log file was shown."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._who = path.name.removesuffix(".log").partition("@")[0]
        self._shown = 0  # bytes
        self._size = 0
        self._grew_at = 0.0

    @property
    def unfinished(self) -> bool:
        """Whether its last line has no end and was not shown."""
        return self._size > self._shown

    def show(self, size: int, out: TextIO, whole: bool) -> None:
        """Print the new lines.

        :param size: of the file, in bytes.
        :param whole: print the last line also if it has no end.
        """
        if size > self._size:
            self._size, self._grew_at = size, time.monotonic()
        whole = whole or time.monotonic() - self._grew_at >= _UNFINISHED_AFTER
        while self.unfinished:
            data = self._read(whole)
            if not data:
                return
            self._shown += len(data)
            for line in data.splitlines():
                print(f"({self._who}) {line.decode(errors='replace')}", file=out, flush=True)

    def _read(self, whole: bool) -> bytes:
        try:
            with self._path.open("rb") as file:
                file.seek(self._shown)
                data = file.read(_MOST_BYTES)
        except FileNotFoundError:
            return b""
        end = data.rfind(b"\n") + 1
        if end:
            return data[:end]
        if len(data) == _MOST_BYTES:  # a very long line is shown in parts, cut between characters
            cut = len(data) - 1
            while cut > len(data) - 4 and data[cut] & 0xC0 == 0x80:
                cut -= 1
            return data[:cut]
        return data if whole else b""


def _sizes(directory: Path) -> list[tuple[str, int]]:
    found = []
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.endswith(".log"):
                # Of an actor that has printed nothing, the file is removed at its end.
                with contextlib.suppress(FileNotFoundError):
                    found.append((entry.name, entry.stat().st_size))
    return found
