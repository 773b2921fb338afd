"""Who reads the replies: one leader at a time.

Pushes arrive on one Redis socket.  A thread in ``get`` reads it itself, so that a
synchronous call costs no thread hop; other waiting threads follow the leader.  When no
thread waits, a background thread reads.  It steps aside for a waiting thread and stays
aside while threads wait again and again, so that the two don't wake each other on
every push.

The background thread also does what is due from time to time: the lease, heartbeats,
re-sending, releasing what was dropped.  It never polls without a deadline that somebody
needs, so an idle process sleeps.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import select
import threading
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from celery_actors.client.broker import LOST
from celery_actors.client.objects import Waiter
from celery_actors.exceptions import SessionEndedError

if TYPE_CHECKING:
    from celery_actors.client.process import Process

__all__ = ["Listener"]

logger = logging.getLogger(__name__)

_ASIDE = 0.05
_AFTER_ERROR = 1.0
_LONGEST_SPIN = 0.001
_LONG_WAIT = 0.01
_LEADER_LEAVES = 1.0  # seconds for a thread that reads the sockets to notice that they are closed

# As os.eventfd_write, but it keeps the GIL: the background thread would else take it at once
# from the thread that submits calls, and send each few in a message of their own.
_eventfd_write = ctypes.PyDLL(None).eventfd_write
_eventfd_write.argtypes = (ctypes.c_int, ctypes.c_uint64)


class Listener:
    """Reads pushes and runs the background thread of one process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        # Held by the leader: who holds it may read the push socket.
        self._reading = threading.Lock()
        # Guards _followers.  Held for a few instructions; nothing is done under it.
        self._followers_lock = threading.Lock()
        self._followers: list[threading.Event] = []
        self._last_foreground = 0.0
        # Used by the leader only, whoever it is.
        self._polls: dict[tuple[int, int, int, bool], select.poll] = {}
        self._wanted = 0
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._leader_wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._usual_wait = _LONG_WAIT  # average of the last waits for one result, in seconds
        self._closing = False
        self._tick_at = 0.0  # when the background thread is to see to everything
        # A byte was written to _wakeup and the background thread has not looked since.  Any
        # thread sets it; two that do so at once write twice, which does no harm.
        self._woken = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the background thread."""
        self._thread = threading.Thread(
            target=self._run, name="celery-actors-listener", daemon=True
        )
        self._thread.start()

    def wake(self) -> None:
        """Make the background thread look at what there is to do."""
        if self._woken:
            return  # it has not looked yet since it was woken last
        self._woken = True
        _eventfd_write(self._wakeup, 1)  # what it returns says whether it is closed

    def close(self) -> None:
        """Stop the background thread and wait for it."""
        self._closing = True
        self.wake()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=10)
        self.wake_all()
        # A leader still reads the descriptors. One that does not leave keeps them.
        if not self._reading.acquire(timeout=_LEADER_LEAVES):
            return
        numbers = self._wakeup, self._leader_wakeup
        self._wakeup = self._leader_wakeup = -1  # they may soon name other files
        self._reading.release()
        for number in numbers:
            with contextlib.suppress(OSError):
                os.close(number)

    def wait(
        self,
        waiter: Waiter,
        timeout: float | None,
        meanwhile: Callable[[], None] | None = None,
    ) -> bool:
        """Wait until ``waiter`` has counted down; read the replies meanwhile.

        Must not be called with the process's lock held.

        :param meanwhile: done each time that something has come, with no lock held: it may
            itself wait for something.
        :returns: False when ``timeout`` seconds went by first.
        :raises SessionEndedError: this process's client was closed meanwhile.
        """
        deadline = None if timeout is None else monotonic() + timeout
        while waiter.remaining > 0:
            if self._closing:
                raise SessionEndedError("the session ended (shutdown()) while this thread waited")
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                return False
            if not self._process.connected:
                # The background thread is connecting again; it settles or wakes us.
                self._follow(waiter, left)
            elif self._reading.acquire(blocking=False):
                try:
                    self._lead(waiter, deadline, once=meanwhile is not None)
                finally:
                    self._last_foreground = monotonic()
                    self._reading.release()
                    self._pass_on()
                # Some of it is user code, which may itself wait: no lock is held here.
                if self._process.objects.after:
                    self._process.run_after()
                if meanwhile is not None:
                    meanwhile()
            else:
                self._follow(waiter, left)
        return True

    def is_current_thread(self) -> bool:
        """Whether the caller is the background thread."""
        return threading.current_thread() is self._thread

    def watch_broker(self) -> None:
        """Have whoever reads the sockets write what the broker did not take."""
        self.wake()
        with contextlib.suppress(OSError):
            os.eventfd_write(self._leader_wakeup, 1)

    def _lead(self, waiter: Waiter, deadline: float | None, once: bool) -> None:
        while waiter.remaining > 0 and self._process.connected and not self._closing:
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                return
            self._read(left, background=False, spin=waiter.remaining == 1)
            if once or self._process.objects.after:
                return

    def _follow(self, waiter: Waiter, left: float | None) -> None:
        """Sleep until counted down, or until there is no leader."""
        event = waiter.event = threading.Event()
        with self._followers_lock:
            self._followers.append(event)
            self._wanted += 1
        try:
            if waiter.remaining > 0:
                if self._process.connected and self._reading.acquire(blocking=False):
                    # The leader went between our attempt and our joining the followers.
                    self._reading.release()
                else:
                    self.wake()  # if it is the background thread that leads, it steps aside
                    self._process.sender.express.catch_up()
                    event.wait(left)
        finally:
            with self._followers_lock:
                self._wanted -= 1
                self._followers.remove(event)
            waiter.event = None

    def _pass_on(self) -> None:
        """The leader leaves: wake a follower to take its place."""
        with self._followers_lock:
            if self._followers:
                self._followers[0].set()

    def wake_all(self) -> None:
        """Wake all waiting threads to look again: something was settled without a push."""
        with self._followers_lock:
            for event in self._followers:
                event.set()
        with contextlib.suppress(OSError):
            os.eventfd_write(self._leader_wakeup, 1)

    def _read(self, timeout: float | None, background: bool, spin: bool = False) -> None:
        """Wait for the sockets, then take in what came.

        :param spin: one result is awaited, which may be here before this thread would be asleep.
        """
        process = self._process
        pushes, broker = process.replies.fileno(), process.mailbox.fileno()
        if pushes < 0:
            process.on_lost()
            return
        mine = self._wakeup if background else self._leader_wakeup
        poll = self._poll(pushes, broker, mine, process.mailbox.is_behind)
        milliseconds = None if timeout is None else max(0.0, timeout) * 1000
        for number, _ in self._spin(poll, milliseconds) if spin else self._idle(poll, milliseconds):
            if number == pushes:
                process.read_pushes()
            elif number == broker:
                self._service_broker()
            else:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(mine)

    def _spin(self, poll: select.poll, milliseconds: float | None) -> list[tuple[int, int]]:
        """Poll; look again and again at first, where the last answers came quickly.

        To fall asleep and to be woken costs a synchronous call a fifth of its time.  Whoever
        else wants this processor gets it between two looks, and slow calls are not spun for:
        after one the usual wait is too long, until some quick ones were slept through.
        """
        begun = monotonic()
        ready: list[tuple[int, int]] = []
        if self._usual_wait < _LONGEST_SPIN and (milliseconds is None or milliseconds > 1):
            until = begun + _LONGEST_SPIN
            while not (ready := poll.poll(0)) and monotonic() < until:
                os.sched_yield()
        ready = ready or self._idle(poll, milliseconds)
        self._usual_wait += (min(monotonic() - begun, _LONG_WAIT) - self._usual_wait) / 4
        return ready

    def _idle(self, poll: select.poll, milliseconds: float | None) -> list[tuple[int, int]]:
        """Poll, asleep: what is awaited may have to be sent first."""
        self._process.sender.express.catch_up()
        return poll.poll(milliseconds)

    def _poll(self, pushes: int, broker: int, mine: int, behind: bool) -> select.poll:
        """Return a poll object for descriptors; the same ones mostly come again.

        A number may have come to mean another file: poll() looks at the numbers only.

        :param behind: what the broker has not taken is to be written as well.
        """
        key = pushes, broker, mine, behind
        poll = self._polls.get(key)
        if poll is None:
            self._polls.clear()
            poll = self._polls[key] = select.poll()
            for number in (pushes, broker, mine):
                if number >= 0:
                    write = select.POLLOUT if behind and number == broker else 0
                    poll.register(number, select.POLLIN | write)
        return poll

    def _service_broker(self) -> None:
        mailbox = self._process.mailbox
        # Who sends to a busy broker has the lock for a little: look again later.
        if not mailbox.lock.acquire(timeout=0.01):
            return
        try:
            mailbox.service()
        except LOST as error:
            self._process.on_mailbox_lost(error)
        finally:
            mailbox.lock.release()
        self._process.flush()  # for those who found the lock taken

    def _run(self) -> None:
        while not self._closing:
            try:
                self._turn()
            except BaseException:
                # Without this thread the process would wait for ever, and never say why. A callback
                # of a future may raise anything, SystemExit too.
                logger.exception("an error in the background thread; it goes on")
                self._sleep(_AFTER_ERROR)
        self.wake_all()

    def _turn(self) -> None:
        # First: who changes something from here on wakes it again.
        woken, self._woken = self._woken, False
        express = self._process.sender.express
        express.look()
        if woken or monotonic() >= self._tick_at:  # else it came for the former alone
            self._tick_at = self._process.tick()
        if not self._process.connected:
            self._tick_at = 0.0
            if not self._process.reconnect():
                self._sleep(0.2)
            return
        now = monotonic()
        aside = self._wanted or now - self._last_foreground < _ASIDE
        if not aside and self._reading.acquire(blocking=False):
            due, self._tick_at = self._tick_at, 0.0
            try:
                self._read(min(due, express.next_due) - now, background=True)
            finally:
                self._reading.release()
                self._pass_on()
            if self._process.objects.after:
                self._process.run_after()
        else:  # a foreground thread leads
            self._tick_at = min(self._tick_at, now + _ASIDE)
            self._sleep(max(0.0, min(self._tick_at, express.next_due) - now))

    def _sleep(self, timeout: float) -> None:
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        if poll.poll(timeout * 1000):
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wakeup)
