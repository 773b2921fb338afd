"""The inbox of an actor that runs one call at a time: what came and has not run yet.

Its executor, while it waits, reads the mailbox's socket itself: the call that it waits for
then wakes the thread that runs it, and no other.  While it runs a call, the consumer's loop
reads the socket, so that heartbeats and control commands are never held up.  Who reads is
said with the loop's own epoll: a descriptor that waits for nothing there is the executor's.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections import deque
from collections.abc import Callable
from queue import Empty
from time import monotonic
from typing import Any

from amqp.exceptions import RecoverableConnectionError

from celery_actors.store.express import ExpressSocket
from celery_actors.worker.buffered import BufferedConnection

__all__ = ["Inbox", "MailboxReader"]

_LOOP_READS = select.EPOLLIN | select.EPOLLERR | select.EPOLLHUP
_EXECUTOR_READS = 0  # errors are still reported: the loop is who connects again


class MailboxReader:
    """Who reads one connection's socket: the consumer's loop, or the executor that waits.

    The executor takes calls only.  What else it comes upon, or that the connection is lost,
    it leaves to the loop: it is the loop's turn then, until it has read all that came.

    Everything is guarded by ``connection.reading``, which whoever reads holds meanwhile.

    :param call_soon: has the loop call something.
    :param wake: makes the executor look again.
    """

    def __init__(
        self,
        connection: BufferedConnection,
        epoll: select.epoll,
        call_soon: Callable[[Callable[[], None]], object],
        wake: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._number: int = connection.sock.fileno()
        self._epoll = epoll
        self._call_soon = call_soon
        self._wake = wake
        self._executors = False  # the socket is the executor's
        self._loops_turn = False
        self._closed = False

    def take(self) -> int:
        """Take the socket from the loop.  Executor.

        :returns: its descriptor; -1 when there is nothing to be read here.
        """
        with self._connection.reading:
            if self._loops_turn or not self._usable:
                return -1
            if not self._executors:
                self._executors = self._modify(_EXECUTOR_READS)
            return self._number if self._executors else -1

    def give(self) -> None:
        """Give the socket back to the loop, if it was taken.  Executor."""
        if self._executors:
            with self._connection.reading:
                self._executors = False
                if self._usable:
                    self._modify(_LOOP_READS)

    def _modify(self, events: int) -> bool:
        """Say for what the loop is to wait; False if the loop has let go of the socket.

        It does so first when the connection is lost, and closes the connection then.
        """
        try:
            self._epoll.modify(self._number, events)
        except (OSError, ValueError):  # not in it any more, or closed
            self._closed = True
        return not self._closed

    def read(self) -> None:
        """Take in the calls that have arrived.  Executor, when the socket is readable."""
        with self._connection.reading:
            if not self._usable:
                return
            try:
                self._loops_turn = not self._connection.read_calls()
            except OSError:  # it is lost: the loop finds that as well
                self._loops_turn = True
        if self._loops_turn:
            self.give()
            self._call_soon(self._let_loop_read)

    def take_express(self, express: ExpressSocket, take: Callable[[bytes], None]) -> None:
        """Take in the next that came by express, unless the mailbox has come first.  Executor."""
        with self._connection.reading:
            if self._usable and not self._loops_turn and (message := express.receive()) is not None:
                take(message)

    def close(self) -> None:
        """The executor takes nothing from this connection any more.  Consumer's thread."""
        with self._connection.reading:
            self._closed = True

    @property
    def _usable(self) -> bool:
        return not self._closed and self._connection.readable

    def _let_loop_read(self) -> None:
        connection = self._connection
        with connection.reading:
            if not self._usable:
                return
            if not connection.connected:
                raise RecoverableConnectionError("Socket was disconnected")
            connection.read_what_came()
            self._loops_turn = False
        self._wake()

    def __repr__(self) -> str:
        who = "nobody" if not self._usable else "executor" if self._executors else "loop"
        return f"<MailboxReader {self._number}: {who} reads>"


class Inbox:
    """Filled by any thread, emptied by the executor's.  As :class:`queue.SimpleQueue`.

    :ivar reader: of the present connection, if its socket can be read here.
    :ivar express: what comes that way is read as well, while the mailbox is.
    :ivar take_express: takes it in.
    """

    express: ExpressSocket | None = None
    take_express: Callable[[bytes], None]

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # The executor sets it before it looks for items a last time, and clears it when it is
        # awake; others look at it after they have added theirs.  So none is overlooked, and
        # nobody is woken in vain.
        self._waiting = False
        self._polls: dict[int, select.poll] = {}
        self.reader: MailboxReader | None = None

    def put(self, item: Any) -> None:
        """Add an item.  Any thread."""
        self._items.append(item)
        if self._waiting:
            self.wake()

    def wake(self) -> None:
        """Make the executor look again.  Any thread."""
        os.eventfd_write(self._wakeup, 1)

    def get_nowait(self) -> Any:
        """Take the next item.

        :raises queue.Empty: there is none.
        """
        try:
            return self._items.popleft()
        except IndexError:
            raise Empty from None

    def get(self, timeout: float | None = None) -> Any:
        """Take the next item, waiting for it.

        :param timeout: in seconds; whatever it is, there is a look at what has come.
        :raises queue.Empty: none came in that time.
        """
        items, left = self._items, timeout
        deadline = None if timeout is None else monotonic() + timeout
        while not items:
            self._wait(left)
            if deadline is not None and not items:
                left = deadline - monotonic()
                if left <= 0:
                    raise Empty  # the socket stays ours: the executor comes again at once
        if self.reader is not None:
            self.reader.give()
        return items.popleft()

    def _wait(self, timeout: float | None) -> None:
        reader = self.reader
        number = -1 if reader is None else reader.take()
        self._waiting = True
        if self._items:
            self._waiting = False
            return
        ready = self._poll(number).poll(None if timeout is None else timeout * 1000)
        self._waiting = False
        express, arrived = self.express, False
        for which, _ in ready:
            if which == self._wakeup:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wakeup)
            elif reader is None:
                continue
            elif which == number:
                reader.read()
            else:
                arrived = True
        # What has come into the mailbox is first; the other then waits for the next look.
        if arrived and reader is not None and express is not None and not self._items:
            reader.take_express(express, self.take_express)

    def _poll(self, number: int) -> select.poll:
        """Return a poll object for a socket (-1: none) and :meth:`wake`.

        A number may have come to mean another file: poll() looks at the numbers only.
        """
        poll = self._polls.get(number)
        if poll is None:
            poll = self._polls[number] = select.poll()
            poll.register(self._wakeup, select.POLLIN)
            if number >= 0:
                poll.register(number, select.POLLIN)
                if self.express is not None:
                    poll.register(self.express, select.POLLIN)
        return poll

    def __repr__(self) -> str:
        return f"<Inbox {len(self._items)} waiting, {self.reader!r}>"
