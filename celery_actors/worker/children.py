"""The actor processes of one node: started through the fork server, reaped, killed."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from celery_actors.worker.forkserver import read_messages, write_message
from celery_actors.worker.launch import Launch

__all__ = ["Child", "Children", "describe_exit"]


_HINTS: dict[int, str] = {
    signal.SIGKILL: " (killed, perhaps for want of memory)",
    signal.SIGSEGV: " (a crash in native code)",
}


@dataclass(slots=True)
class Child:
    """One process.  ``pid`` is 0 until the fork server has answered."""

    launch: Launch
    pid: int = 0
    kill_wanted: bool = False


def describe_exit(status: int) -> str:
    """Say in words how a process ended, from its wait status.

    A status is the program's own, also where it is one that this package uses: why the process
    ended itself is in its last words.
    """
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        hint = _HINTS.get(number, "")
        return f"its process was ended by {name}{hint}"
    return f"its process exited with status {os.WEXITSTATUS(status)}"


class Children:
    """Used by the node agent's thread only."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._server: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None
        self._buffer = bytearray()
        self._children: dict[str, Child] = {}  # by incarnation

    def start_server(self) -> None:
        """Start the fork server; it answers once it is warm."""
        ours, theirs = socket.socketpair()
        os.set_inheritable(theirs.fileno(), True)
        # -u: what an actor prints is in its log at once, as Ray's workers have it.
        self._server = subprocess.Popen(
            [sys.executable, "-u", "-m", "celery_actors.worker.forkserver", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=self._environment,
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._sock = ours
        self._buffer.clear()

    def fileno(self) -> int:
        """Return the descriptor on which the fork server's answers come."""
        assert self._sock is not None
        return self._sock.fileno()

    def __len__(self) -> int:
        return len(self._children)

    def all(self) -> list[Child]:
        """Return all processes."""
        return list(self._children.values())

    def spawn(self, launch: Launch) -> None:
        """Start a process.  If it can't be started, that is reported as its end."""
        assert self._sock is not None
        self._children[launch.incarnation] = Child(launch)
        with contextlib.suppress(OSError):  # the server has ended: events() will say so
            write_message(self._sock, launch)

    def kill(self, incarnation: str) -> bool:
        """Kill a process and what it has started; whether there is one.

        It is reported when it is reaped.
        """
        child = self._children.get(incarnation)
        if child is None:
            return False
        child.kill_wanted = True
        if child.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
        return True

    def events(self) -> list[tuple[Child, str]]:
        """Read the fork server's answers; returns ended processes and how each ended.

        If the server itself is gone, the kernel has killed its children: all are returned
        and a new server is started.
        """
        ended: list[tuple[Child, str]] = []
        assert self._sock is not None
        try:
            for message in read_messages(self._sock, self._buffer):
                assert isinstance(message, tuple)
                kind, incarnation, *said = message
                child = self._children.get(incarnation)
                if child is None:
                    continue
                if kind == "started":
                    (child.pid,) = said
                    if child.kill_wanted:
                        self.kill(incarnation)
                    continue
                del self._children[incarnation]
                cause = describe_exit(said[0]) if kind == "exited" else said[0]
                ended.append((child, cause))
        except (EOFError, OSError):
            cause = "its node's fork server ended, and the kernel kills its children with it"
            ended += [(child, cause) for child in self._children.values()]
            self._children.clear()
            self._close_server()
            self.start_server()
        return ended

    def stop(self) -> list[Child]:
        """Kill all processes and the server; returns once they are gone."""
        children, self._children = list(self._children.values()), {}
        self._close_server()
        return children

    def _close_server(self) -> None:
        if self._sock is not None:
            self._sock.close()  # the server kills and reaps its children, then ends
            self._sock = None
        server, self._server = self._server, None
        if server is not None:
            try:
                server.wait(timeout=10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()

    def wait_readable(self, timeout: float, wakeup: int) -> tuple[bool, bool]:
        """Wait for the server's answers or a wake-up; which of them came."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        poll.register(wakeup, select.POLLIN)
        ready = {number for number, _ in poll.poll(max(0.0, timeout) * 1000)}
        return self.fileno() in ready, wakeup in ready
