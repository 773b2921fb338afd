"""The fork server: a warm, single-threaded process that actor processes fork from.

It has celery, kombu, redis and cloudpickle imported and rehearsed, so a fork is consuming its
mailbox after some 50 ms and shares those modules' memory.  It is spoken to over a socket pair in
length-prefixed pickles (its parent, the node worker, is the only other end):

* to it: a :class:`~celery_actors.worker.launch.Launch` for each process to start;
* from it: ``("started", incarnation, pid)``, ``("exited", incarnation, status)`` with the wait
  status, or ``("unstarted", incarnation, why)`` where a process could not be made.

Why not :mod:`multiprocessing`'s: that one keeps exit statuses to itself until asked, runs
the parent's ``__main__`` again in each child, and can't ask for a death signal.

Nobody outlives anybody: the server ends when its socket closes and kills its children;
each child has the kernel kill it when the server goes (PR_SET_PDEATHSIG, then a check
that the server is still the parent, for the time before).  What the children started ends with
them, see :mod:`.descendants`.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import pickle
import select
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING

from celery_actors.config import Settings
from celery_actors.worker.descendants import Marks, become_subreaper, children, start_sweeper
from celery_actors.worker.launch import Launch

if TYPE_CHECKING:
    from celery_actors.worker.prepared import Prepared

__all__ = ["main", "read_messages", "write_message"]

# What an actor process would import by itself: in the server, its memory is shared.
PRELOAD = (
    "celery_actors.worker.program",
    "billiard.pool",
    "celery.app.amqp",
    "celery.app.control",
    "celery.app.events",
    "celery.app.log",
    "celery.backends.base",
    "celery.concurrency.base",
    "celery.events.state",
    "celery.fixups.django",
    "celery.loaders.app",
    "celery.worker.autoscale",
    "celery.worker.components",
    "celery.worker.consumer.agent",
    "celery.worker.consumer.gossip",
    "celery.worker.consumer.mingle",
    "celery.worker.control",
    "celery.worker.heartbeat",
    "celery.worker.pidbox",
    "encodings.idna",
    "kombu.pidbox",
    "kombu.transport.pyamqp",
    "unicodedata",
)
_END_SECONDS = 5.0  # for killed processes to end: less than the node worker waits for us
_LENGTH = struct.Struct(">I")
_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def write_message(sock: socket.socket, message: object) -> None:
    """Write one message."""
    data = pickle.dumps(message, protocol=5)
    sock.sendall(_LENGTH.pack(len(data)) + data)


def read_messages(sock: socket.socket, buffer: bytearray) -> Iterator[object]:
    """Read once, and yield the messages that are complete.

    :raises EOFError: the other end is closed.
    """
    data = sock.recv(1 << 20)
    if not data:
        raise EOFError("the other end of the fork server's socket is closed")
    buffer += data
    while len(buffer) >= 4:
        (length,) = _LENGTH.unpack_from(buffer)
        if len(buffer) < 4 + length:
            return
        message = pickle.loads(memoryview(buffer)[4 : 4 + length].tobytes())
        del buffer[: 4 + length]
        yield message


class _Server:
    def __init__(self, sock: socket.socket, marks: Marks, sweeper: int) -> None:
        self._sock = sock
        self._children: dict[int, str] = {}  # incarnations, by pid
        self._marks = marks
        self._mark_of: dict[int, int] = {}  # by pid
        self._sweeper = sweeper
        self._prepared: Prepared | None = None
        self._made_of = b""
        self._before_user_code: frozenset[str] = frozenset()  # names of modules
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the node worker says when to end

    def serve(self) -> None:
        buffer = bytearray()
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        while True:
            for number, _ in poll.poll():
                if number == self._wake_read:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_read, 4096)
                    self._reap()
                    continue
                try:
                    for message in read_messages(self._sock, buffer):
                        assert isinstance(message, Launch)
                        self._start(message)
                except (EOFError, OSError):
                    self._kill_all()
                    return

    def _prepare(self, settings: Settings) -> Prepared:
        """Make what is made before a fork; all processes of a node mostly have equal settings."""
        # Pickled, since objects of users among them (credentials) may not equal their copies.
        prepared, made_of = self._prepared, pickle.dumps(settings)
        if prepared is None or self._made_of != made_of:
            # Not with the others: main() imports it, and what it needs, among PRELOAD.
            from celery_actors.worker.interpreter_end import modules_until_now
            from celery_actors.worker.prepared import Prepared

            prepared = self._prepared = Prepared.of(settings)
            self._made_of = made_of
            # Here, not in the children: each name would be written to there, to be counted.
            self._before_user_code = modules_until_now()
            gc.collect()
            gc.freeze()
        return prepared

    def _start(self, launch: Launch) -> None:
        """Start a process, or say why there is none: the others must not suffer from that."""
        try:
            prepared = self._prepare(launch.settings)
            mark = self._marks.new(self._mark_of.values())
            pid = os.fork()
        except Exception as error:  # noqa: BLE001 - no room for a process, or unusable settings
            traceback.print_exc()
            why = f"its process could not be started: {error}"
            write_message(self._sock, ("unstarted", launch.incarnation, why))
            return
        if pid == 0:
            try:
                self._become_child(mark)
                _run(launch, prepared, self._before_user_code)
            except BaseException:  # noqa: BLE001 - the child ends, and says of what
                traceback.print_exc()
                _say_own_error()
            finally:
                _flush()
                os._exit(70)
        self._children[pid] = launch.incarnation
        self._mark_of[pid] = mark
        write_message(self._sock, ("started", launch.incarnation, pid))

    def _become_child(self, mark: int) -> None:
        Marks.put_on(mark)
        parent = os.getppid()
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the server went before the call above
            os._exit(71)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        # SIGINT stays ignored until the program has a handler for it.
        self._sock.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _reap(self) -> None:
        """Reap whatever has ended; kill what an actor that ended has started; report."""
        ended = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            incarnation = self._children.pop(pid, None)
            if incarnation is not None:
                del self._mark_of[pid]
                ended.append((incarnation, status))
        self._kill_orphans()
        for incarnation, status in ended:
            with contextlib.suppress(OSError):
                write_message(self._sock, ("exited", incarnation, status))

    def _kill_orphans(self) -> None:
        """Kill the children that we adopted and whose actor is gone.

        When they have ended, which a SIGCHLD tells, we adopt their children.
        """
        living = set(self._mark_of.values())
        for pid in children():
            if pid in self._children or pid == self._sweeper:
                continue
            if Marks.of(pid) not in living:
                _kill(pid)

    def _kill_all(self) -> None:
        """Kill the children, and all that comes to be ours then; returns when nothing is left."""
        self._mark_of.clear()
        for pid in self._children:
            _kill(pid)
        deadline = monotonic() + _END_SECONDS
        self._children.clear()
        while monotonic() < deadline:
            self._kill_orphans()
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    continue
            except ChildProcessError:
                return
            if children() == [self._sweeper]:
                return  # it ends when we have
            select.select([self._wake_read], [], [], 0.1)
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)


def _kill(pid: int) -> None:
    """Kill a child that was not reaped yet: its pid is nobody else's."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _run(launch: Launch, prepared: Prepared, before_user_code: frozenset[str]) -> None:
    os.setsid()
    os.environ.update(launch.environment)
    if launch.log_file:
        number = os.open(launch.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(number, 1)
        os.dup2(number, 2)
        os.close(number)
    # User code comes from here on.
    from celery_actors.worker.interpreter_end import leave
    from celery_actors.worker.program import run

    leave(run(launch, prepared), before_user_code)


def _say_own_error() -> None:
    from celery_actors.worker.last_words import OWN_ERROR, say

    say(OWN_ERROR)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


def _reset_signals() -> None:
    """Reset signals that the node worker's parent ignored or blocked: actors would inherit it.

    A shell ignores SIGINT and SIGQUIT in what it starts in the background, ``nohup`` SIGHUP; a
    program may block any signal.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:  # Python's own choice
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def main() -> None:
    """Serve on the socket whose descriptor is the first argument."""
    _reset_signals()
    sock = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(sock.fileno(), False)
    parent = os.getppid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return
    become_subreaper()
    marks = Marks()
    sweeper = start_sweeper(marks, sock)  # before there is much memory for it to share
    if not getattr(sys.flags, "safe_path", False):
        # "-m" has put the node worker's current directory there: actors have their program's.
        sys.path.pop(0)
    for name in PRELOAD:
        importlib.import_module(name)
    from celery_actors.worker.rehearsal import rehearse

    rehearse()
    gc.collect()
    gc.freeze()  # children then don't write to the pages of what is shared
    _Server(sock, marks, sweeper).serve()


if __name__ == "__main__":
    main()
