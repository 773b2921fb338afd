"""Express: a call that goes straight to an idle actor, beside its message in the mailbox.

RabbitMQ passes a message through five of Erlang's processes and wakes two of the system's: a third
of a synchronous call's time.  Where caller and actor share a machine's memory, and nothing else is
under way from one to the other, the message goes to the actor as a datagram as well.  An actor that
waits for a call begins that one at once; the message in its mailbox comes a moment later, and is
then known as a copy.

Like rings, a shortcut that promises nothing.  Every call lies in the mailbox in any case, and has
its place there.  An actor that is not idle leaves datagrams unread, and drops what it finds when it
is: what has come into its mailbox meanwhile was there first.  Signatures are the same as in the
mailbox, and so is the way in which repeats are known.

Each incarnation has a socket of its own; the message in the mailbox says to which it went.  So an
incarnation that follows knows of each call whether the one before may have begun it.

Callers connect to the socket once, when they have seen that it is this user's: whoever takes its
name later, when the actor is dead, is sent nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import stat
from pathlib import Path
from typing import Final

from celery_actors.store.machine import boot_id

__all__ = ["LONGEST", "ExpressSender", "ExpressSocket", "express_path", "sweep_express"]

#: Bytes of the longest message that goes by express.
LONGEST: Final = 16 * 1024
_MOST_OPEN: Final = 64
_NAME: Final = re.compile(r"ca-[0-9a-f]{8}-x[0-9a-f]{16}")


def express_path(directory: Path, incarnation: bytes) -> Path:
    """Return where an incarnation's socket is, in the directory of the shared memory."""
    return directory / f"ca-{boot_id()[:8]}-x{incarnation.hex()}"


class ExpressSocket:
    """The receiving end, of one incarnation of an actor.

    :param path: the socket to be made; it is removed by :meth:`close`.
    :raises OSError: it can't be made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pid = os.getpid()
        self._socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        try:
            self._socket.bind(str(path))
            path.chmod(0o600)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor, -1 when closed."""
        return self._socket.fileno()

    def receive(self) -> bytes | None:
        """Return the next message that came; ``None`` where there is none."""
        try:
            return self._socket.recv(LONGEST)
        except BlockingIOError:
            return None

    def close(self) -> None:
        """Remove the socket, if this process made it."""
        self._socket.close()
        if self._pid == os.getpid():
            self._path.unlink(missing_ok=True)

    def abandon(self) -> None:
        """Close the socket of the parent of this fork: it is gone when that is."""
        self._socket.close()

    def __repr__(self) -> str:
        return f"<ExpressSocket {self._path.name}>"


class ExpressSender:
    """The sending end of one process, to any actor.  Used by one thread at a time.

    :param directory: where the actors' sockets are.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._sockets: dict[bytes, socket.socket] = {}  # by incarnation, the latest made last

    def send(self, incarnation: bytes, message: bytes) -> bool:
        """Send a message to an incarnation of an actor, without waiting.

        :returns: whether it is there to be read by it; if not, none should be sent again.
        """
        try:
            connected = self._sockets.get(incarnation) or self._connect(incarnation)
            connected.send(message)
        except OSError:  # it is dead or busy, of another mount or user, or the message too long
            self._forget(incarnation)
            return False
        return True

    def _connect(self, incarnation: bytes) -> socket.socket:
        path = express_path(self._directory, incarnation)
        status = path.stat()
        if status.st_uid not in (os.geteuid(), 0) or not stat.S_ISSOCK(status.st_mode):
            raise PermissionError(errno.EPERM, "not a socket of this user", str(path))
        if len(self._sockets) >= _MOST_OPEN:
            self._forget(next(iter(self._sockets)))
        made = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        try:
            made.connect(str(path))
        except BaseException:
            made.close()
            raise
        self._sockets[incarnation] = made
        return made

    def _forget(self, incarnation: bytes) -> None:
        known = self._sockets.pop(incarnation, None)
        if known is not None:
            known.close()

    def close(self) -> None:
        """Close the sockets."""
        while self._sockets:
            self._sockets.popitem()[1].close()

    def __repr__(self) -> str:
        return f"<ExpressSender {self._directory} sockets={len(self._sockets)}>"


def sweep_express(directory: Path) -> int:
    """Remove the sockets that nobody reads: their processes were killed.

    :returns: how many.
    """
    removed = 0
    with contextlib.suppress(FileNotFoundError):
        for path in [path for path in directory.iterdir() if _NAME.fullmatch(path.name)]:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
                try:
                    probe.connect(str(path))
                except ConnectionRefusedError:
                    with contextlib.suppress(FileNotFoundError, PermissionError):
                        path.unlink()
                        removed += 1
                except OSError:  # it has gone, or is another user's
                    continue
    return removed
