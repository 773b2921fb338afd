"""What actors print, shown by the driver (as Ray does with ``log_to_driver``)."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import TextIO

__all__ = ["follow_logs", "stop_following"]

_LOOK_EVERY = 0.25

_stop: threading.Event | None = None
_thread: threading.Thread | None = None


def follow_logs(session_dir: str, job_id: str, out: TextIO | None = None) -> None:
    """Print new lines of the log files of a job's actors, from a background thread.

    Files give no signal when they grow, so they are looked at four times a second.
    """
    global _stop, _thread
    stop_following()
    _stop = threading.Event()
    _thread = threading.Thread(
        target=_follow,
        args=(Path(session_dir) / "logs" / job_id, _stop, out or sys.stderr),
        name="celery-actors-logs",
        daemon=True,
    )
    _thread.start()


def stop_following() -> None:
    """Print what is left, and end the thread."""
    global _stop, _thread
    if _stop is not None and _thread is not None:
        _stop.set()
        _thread.join(timeout=2)
    _stop = _thread = None


def _follow(directory: Path, stop: threading.Event, out: TextIO) -> None:
    offsets: dict[str, int] = {}
    while True:
        last = stop.wait(_LOOK_EVERY)
        for name, size in _sizes(directory):
            start = offsets.get(name, 0)
            if size > start:
                offsets[name] = start + _show(directory / name, start, out)
        if last:
            return


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
