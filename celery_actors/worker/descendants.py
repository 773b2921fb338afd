"""The processes that an actor starts, and how they end with it.

An actor may start any process: a subprocess, one of :mod:`multiprocessing`, a daemon that forks
twice and leads a session of its own.  All of them end when the actor's process ends, however it
ends.  Two things make that sure:

* The fork server is a *subreaper*: the kernel makes it the parent of every descendant whose own
  parent ended.  So it sees them all, and reaps them.
* Each actor process has a *mark*, which its descendants inherit through ``fork``, ``exec`` and
  ``setsid``, and which says whose descendant a process is.

The mark is the soft limit ``RLIMIT_LOCKS``: Linux has kept it since 2.4, inherits it, shows it in
``/proc/<pid>/limits`` to everybody and enforces nothing by it.  An environment variable is no such
mark (``/proc`` shows the environment of the last ``exec``, and a forked process had none), neither
is a session or a process group (a daemon leaves them), and a control group needs privileges.

When the fork server itself is killed, its *sweeper* kills what is marked: a process that does
nothing else, in a session of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import signal
import socket
from collections.abc import Container, Iterator
from pathlib import Path
from time import monotonic, sleep

__all__ = ["Marks", "become_subreaper", "children", "processes", "start_sweeper"]

_RLIMIT_LOCKS = 10
_LIMIT_NAME = b"Max file locks"
_NUMBER_BITS = 20
_SERVER_BITS = 40
# Larger than any limit that somebody would set on purpose, smaller than "unlimited".
_LEAST = 1 << (_NUMBER_BITS + _SERVER_BITS)
_PR_SET_CHILD_SUBREAPER = 36
_SWEEP_SECONDS = 10.0
_prctl = ctypes.CDLL(None, use_errno=True).prctl


class Marks:
    """The marks of one fork server's processes: a random number of its own and one of each."""

    def __init__(self) -> None:
        self._server = int.from_bytes(os.urandom(_SERVER_BITS // 8), "big")
        self._last = 0

    def new(self, used: Container[int]) -> int:
        """Return a mark that no living process has.

        :param used: the marks of living processes.
        """
        while True:
            self._last = (self._last + 1) % (1 << _NUMBER_BITS)
            mark = _LEAST | self._server << _NUMBER_BITS | self._last
            if mark not in used:
                return mark

    def belongs(self, mark: int) -> bool:
        """Return whether a mark is one of this server's."""
        return mark >> _NUMBER_BITS == (_LEAST >> _NUMBER_BITS) | self._server

    @staticmethod
    def put_on(mark: int) -> None:
        """Mark this process, and all that it will start."""
        _, hard = resource.getrlimit(_RLIMIT_LOCKS)
        # Where somebody has lowered the hard limit a process goes unmarked, and its daemons
        # are killed as soon as the fork server is their parent.
        with contextlib.suppress(ValueError):
            resource.setrlimit(_RLIMIT_LOCKS, (mark, hard))

    @staticmethod
    def of(pid: int) -> int:
        """Return the mark of a process; 0: it has none, or has ended."""
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/limits").read_bytes().splitlines():
                if line.startswith(_LIMIT_NAME):
                    soft = line[len(_LIMIT_NAME) :].split()[0]
                    return int(soft) if soft.isdigit() else 0
        return 0


def become_subreaper() -> None:
    """Become the parent of every descendant whose own parent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> list[int]:
    """Return the pids of this process's children, zombies included.

    Assumption: this process has one thread.  The kernel's list may leave a child out only while
    another is taken off it, and a child is taken off when this process reaps it.
    """
    pid = os.getpid()
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_bytes().split()]
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return [child for child, parent, _ in processes() if parent == pid]


def processes() -> Iterator[tuple[int, int, bytes]]:
    """Yield pid, parent and state of every process."""
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # The program's name stands in parentheses and may hold anything.
            words = (directory / "stat").read_bytes().rpartition(b")")[2].split()
            yield int(directory.name), int(words[1]), words[0]


def start_sweeper(marks: Marks, sock: socket.socket) -> int:
    """Fork the process that kills this one's marked descendants once this one has ended.

    :param sock: this process's end of the socket to the node worker, which the other must not hold.
    :returns: its pid.
    """
    server = os.pidfd_open(os.getpid())
    pid = os.fork()
    if pid:
        os.close(server)
        return pid
    try:
        os.setsid()  # a signal to the node worker's process group is not for it
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        sock.close()
        ended = select.poll()
        ended.register(server, select.POLLIN)
        ended.poll()
        _sweep(marks)
    finally:
        os._exit(0)


def _sweep(marks: Marks) -> None:
    """Kill every process with one of the marks, until there is none."""
    deadline = monotonic() + _SWEEP_SECONDS
    while monotonic() < deadline:
        living = [pid for pid, _, state in processes() if state not in (b"Z", b"X")]
        killed = [pid for pid in living if _kill_marked(pid, marks)]
        if not killed:
            return
        sleep(0.01)  # the kernel takes a moment to end a killed process, and sends no signal


def _kill_marked(pid: int, marks: Marks) -> bool:
    """Kill a process if it is marked; whether it is.  Another that got its pid is safe."""
    if not marks.belongs(Marks.of(pid)):
        return False
    with contextlib.suppress(OSError):
        process = os.pidfd_open(pid)
        try:
            if marks.belongs(Marks.of(pid)):
                signal.pidfd_send_signal(process, signal.SIGKILL)
        finally:
            os.close(process)
    return True
