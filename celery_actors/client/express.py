"""Express, from the caller's side: calls that go straight to an actor, and into its mailbox behind.

A call goes by express to an actor that shares this machine's memory (see
:mod:`celery_actors.store.express`), that this process alone can call, and which has all its calls
before.  So there is nothing that it could overtake: an actor's calls run in the order in which they
come into its mailbox, and who gets a handle to it later comes behind.  It lies in the mailbox a
moment later, together with those that followed it: a message of its own would cost RabbitMQ, and
the actor that has long begun, as much again as the call.  It goes there

* before anything else that this process sends to that actor, so that the mailbox has all calls,
  in their order, and before a handle to it leaves this process;
* before a thread that waits for a result falls asleep: an actor that is not idle may have left the
  datagram unread, and its mailbox is what it looks into;
* at the latest some milliseconds later, with the next call or by the background thread.

Until then the call is this process's to send again, as any that is not resolved.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from celery_actors.client.broker import LOST
from celery_actors.client.outbox import Outbox
from celery_actors.ids import NO_INCARNATION
from celery_actors.protocol.calls import encode_calls
from celery_actors.store.express import LONGEST, ExpressSender

if TYPE_CHECKING:
    from celery_actors.client.process import Process

__all__ = ["Express"]

_TOGETHER = 0.002  # calls within this time (seconds) go into the mailbox in one message
_LOOK_EVERY = 0.005
_LINGER = 0.05  # seconds for which the background thread goes on looking


@dataclass(slots=True)
class _Behind:
    """Calls that an incarnation of an actor got by express, and its mailbox has not.

    :ivar floor: of the first of them.
    :ivar since: when that was sent (monotonic seconds).
    :ivar size: bytes of the calls.
    """

    incarnation: bytes
    caller: bytes
    floor: int
    since: float
    calls: list[bytes] = field(default_factory=list)
    size: int = 0


class Express:
    """What one process sends by express.  Everything here is guarded by the mailbox's lock."""

    def __init__(self, process: Process) -> None:
        self._p = process
        self._sender = ExpressSender(Path(process.settings.shared_memory_dir))
        self._behind: dict[Outbox, _Behind] = {}
        self._last = 0.0  # when a call was sent last
        self._watched = False  # the background thread comes to look

    def send(self, box: Outbox, caller: bytes, floor: int, call: bytes) -> bool:
        """Send a call straight to its actor.  Under the mailbox's lock.

        :param call: encoded.
        :returns: whether it went; if not, it is to be published.
        :raises LOST: calls before it could not be published, as :meth:`publish`.
        """
        process, incarnation = self._p, box.express
        message = encode_calls(process.signer, box.actor, caller, floor, [call], incarnation)
        if len(message) > LONGEST:
            return False
        now = self._last = monotonic()
        behind = self._behind.get(box)
        if behind is not None and (behind.incarnation, behind.caller) != (incarnation, caller):
            self.publish(box)
            behind = None
        if behind is None:
            behind = self._behind[box] = _Behind(incarnation, caller, floor, now)
        behind.calls.append(call)  # first: whatever interrupts this, it comes into the mailbox
        behind.size += len(call)
        if not self._sender.send(incarnation, message):
            behind.calls.pop()
            if not behind.calls:
                del self._behind[box]
            with process.lock:
                box.express = NO_INCARNATION  # until the actor says once more that it reads
            return False
        if (
            now - behind.since >= _TOGETHER
            or len(behind.calls) >= process.settings.batch_calls
            or behind.size >= process.settings.batch_bytes - LONGEST
        ):
            self.publish(box)
        elif not self._watched:
            self._watched = True
            process.listener.wake()
        return True

    def publish(self, box: Outbox) -> None:
        """Send into an actor's mailbox what it got by express.  Under the mailbox's lock.

        :raises LOST: the connection is lost; what is unresolved is then sent again, as any call.
        """
        behind = self._behind.get(box)
        if behind is None:
            return
        process, calls = self._p, behind.calls
        message = encode_calls(
            process.signer, box.actor, behind.caller, behind.floor, calls, behind.incarnation
        )
        try:
            process.mailbox.publish(box.queue, message)
        except LOST:
            self._behind.clear()
            raise
        del self._behind[box]

    def catch_up(self) -> None:
        """Send into the mailboxes what they are behind.  Whoever falls asleep, without locks.

        If another thread is just sending, the background thread does it a little later.
        """
        if self._behind:
            self._publish_all(timeout=0.0)

    def look(self) -> None:
        """Send what has been behind for long.  Background thread."""
        # Without the lock where there is nothing: others who want to send would find it taken.
        if self._behind or (self._watched and monotonic() - self._last >= _LINGER):
            self._publish_all(least_age=_TOGETHER, timeout=0.1)

    def settle(self) -> None:
        """Send all that is behind.  Without locks."""
        self._publish_all()

    def close(self) -> None:
        """Send all that is behind: this process closes.  Without locks."""
        self.settle()
        with self._p.mailbox.lock:
            self._sender.close()

    def _publish_all(self, least_age: float = 0.0, timeout: float = -1) -> None:
        process = self._p
        if not process.mailbox.lock.acquire(timeout=timeout):
            return
        try:
            now = monotonic()
            for box in [b for b, behind in self._behind.items() if now - behind.since >= least_age]:
                self.publish(box)
            self._watched = bool(self._behind) or now - self._last < _LINGER
        except LOST as error:
            process.on_mailbox_lost(error)
        finally:
            process.mailbox.lock.release()
        process.flush()  # for those who found the lock taken

    @property
    def next_due(self) -> float:
        """When :meth:`look` has something to do."""
        return monotonic() + _LOOK_EVERY if self._watched else float("inf")

    def abandon(self) -> None:
        """Forget what the parent of this fork sends."""
        self._behind.clear()
        self._sender.close()
        self._watched = False

    def __repr__(self) -> str:
        behind = sum(len(behind.calls) for behind in self._behind.values())
        return f"<Express behind={behind} {self._sender!r}>"
