"""What a process does from time to time, above all letting go of what was dropped."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING

from celery_actors.client.broker import LOST
from celery_actors.client.identity import lease_lost
from celery_actors.client.objects import Entry
from celery_actors.client.outbox import Outbox, PendingCall
from celery_actors.exceptions import TamperedError
from celery_actors.ids import call_owner, split_object_id
from celery_actors.protocol.calls import CallFlag
from celery_actors.protocol.signing import SIGNATURE_BYTES
from celery_actors.protocol.values import ValueFlag
from celery_actors.store.outage import is_lost, is_outage

if TYPE_CHECKING:
    from celery_actors.client.process import Process

__all__ = ["Housekeeping"]

logger = logging.getLogger(__name__)

_COLLECT_EVERY = 0.2
_HEARTBEAT_EVERY = 2.5
_AGAIN = 0.5  # until what Redis could not do now is tried again, in seconds


class Housekeeping:
    """Timed work of one process, done by its background thread."""

    def __init__(self, process: Process) -> None:
        self._process = process
        now = monotonic()
        self._heartbeat_due = now + _HEARTBEAT_EVERY
        self._extend_due = now + process.settings.result_ttl / 3
        self._garbage: list[Entry] = []
        # Those of them whose shared memory the next value may take at once.
        self._reusable: deque[Entry] = deque()
        self._postponed: deque[Callable[[], None]] = deque()
        self._lent: dict[bytes, bytes | None] = {}  # own objects that only others keep
        self._returned: deque[bytes] = deque()
        self._uncarried: deque[tuple[bytes, str]] = deque()

    # -- what was dropped ----------------------------------------------------------

    def collect(self) -> None:
        """Count down dropped refs and send the releases of dropped holds.  Under the lock."""
        process = self._process
        process.streams.collect()
        self._discard_dropped()
        released = process.holds.released
        while released:
            actor, owner = released.popleft()
            self._release_hold(actor, owner)

    def _discard_dropped(self) -> None:
        for entry in self._process.objects.collect():
            if not entry.pending or entry.foreign:
                self.discard(entry)

    def discard(self, entry: Entry) -> None:
        """Forget an entry without refs; its value is released soon.  Under the lock."""
        if self._process.objects.entries.pop(entry.oid, None) is not None:
            self._garbage.append(entry)
            if entry.in_shared_memory and not (entry.foreign or entry.escaped):
                self._reusable.append(entry)

    def free_shared_memory(self) -> None:
        """Free the shared memory of dropped values, so that the next value can use it.

        A large value is best written over one that was dropped before it: those pages are there
        already.  The background thread comes too late for a program that puts one value after the
        other, so whoever is about to write a large value calls this first.

        Only this process ever had a ref to these values, so nobody can still ask for them.  What
        else they have (records in Redis, what they contain) the background thread lets go of.
        """
        process = self._process
        with process.lock:
            self._discard_dropped()
            reusable, self._reusable = self._reusable, deque()
        for entry in reusable:
            assert entry.blob is not None  # else it would not be known where it lies
            segment = process.codec.segment(process.codec.verify(entry.oid, entry.blob))
            if segment is not None:
                process.segments.release(segment)

    def _release_hold(self, actor: bytes, owner: str) -> None:
        """Append the release of a hold to the actor's outbox, behind the last call."""
        process = self._process
        box = process.outbox(actor)
        if box.dead is not None:
            process.outboxes.pop(actor, None)
            return

        def done(_call: PendingCall) -> None:
            if not box.unresolved and not box.late and process.holds.get(actor) is None:
                process.outboxes.pop(actor, None)

        sequence = process.next_sequence()
        call = PendingCall(
            task=sequence,
            method=b"",
            payload=owner.encode(),
            entries=(),
            flags=CallFlag.RELEASE,
            returns=0,
            on_done=done,
        )
        box.add(call, sequence)
        if box.unsent:
            process.dirty[box] = None

    def calls_resolved(self, calls: Iterable[PendingCall]) -> None:
        """Forget the values that nobody here wants.  Under the lock."""
        entries = self._process.objects.entries
        for call in calls:
            for entry in call.entries:
                if entry.refs > 0:
                    continue
                if call.flags & CallFlag.STORE_NOTHING:
                    entries.pop(entry.oid, None)
                else:
                    self.discard(entry)

    def calls_failed(self, box: Outbox, calls: Iterable[PendingCall]) -> None:
        """Let go of what calls that never ran carried to a dead actor.  Under the lock."""
        caller = self._process.caller.hex()
        for call in calls:
            if call.carried:
                owner = call_owner(caller, call.sequence, box.actor.hex())
                self._uncarried.extend((actor, owner) for actor in call.carried)
            for entry in call.entries:
                if entry.refs <= 0:
                    self.discard(entry)

    def _release_carried(self) -> None:
        process = self._process
        while self._uncarried:
            actor, owner = self._uncarried[0]
            if process.control.release_hold(actor.hex(), owner):
                process.send_stop(actor)
            self._uncarried.popleft()

    def _release_values(self) -> None:
        process = self._process
        with process.lock:
            garbage, self._garbage = self._garbage, []
            self._reusable.clear()  # they are released below with the others
        try:
            self._release(garbage)
        except Exception:  # all of it is tried again: a second release does nothing
            with process.lock:
                self._garbage = garbage + self._garbage
            raise

    def _release(self, garbage: Sequence[Entry]) -> None:
        process = self._process
        awaited = [entry.oid for entry in garbage if entry.foreign and entry.pending]
        process.results.stop_waiting(awaited, process.caller.hex())
        self._give_back(garbage)
        own = {e.oid: e.blob for e in garbage if not e.foreign and not e.escaped}
        lent = {e.oid: e.blob for e in garbage if not e.foreign and e.escaped and not e.pinned}
        while self._returned:
            oid = self._returned.popleft()
            if oid in self._lent and oid not in process.objects.entries:
                lent[oid] = self._lent[oid]
        own.update(self._not_lent(lent))
        if not own:
            return
        process.results.release(own)
        self._release_all_contents(own)

    def _give_back(self, garbage: Iterable[Entry]) -> None:
        """Tell the makers of objects that this process no longer keeps them."""
        kept: dict[str, list[str]] = {}
        for entry in garbage:
            if entry.hold is not None:
                kept.setdefault(entry.hold, []).append(entry.oid.hex())
        for owner, oids in kept.items():
            self._give_up(oids, owner)

    def _give_up(self, oids: Iterable[str], owner: str) -> None:
        """Drop a token's holds on objects; those without a maker are released by who had the last.

        What is inside such an object may be of the same kind: it is released with it.
        """
        process = self._process
        left = [bytes.fromhex(oid) for oid in process.control.give_back(list(oids), owner)]
        if left:
            blobs = process.results.fetch(left)
            process.results.release(left)
            self._release_all_contents(dict(zip(left, blobs, strict=True)))

    def _not_lent(self, lent: dict[bytes, bytes | None]) -> dict[bytes, bytes | None]:
        """Return the objects that nobody keeps; the others are looked at again when told so."""
        if not lent:
            return {}
        kept = self._process.control.lent([oid.hex() for oid in lent])
        free: dict[bytes, bytes | None] = {}
        for (oid, blob), elsewhere in zip(lent.items(), kept, strict=True):
            # A ref that came back here brought no value with it: what is inside is still known.
            known = self._lent.pop(oid, None)
            (self._lent if elsewhere else free)[oid] = known if blob is None else blob
        return free

    def returned(self, oid: bytes) -> None:
        """Nobody else keeps an object of this process any more.  Any thread."""
        self._returned.append(oid)

    def _release_all_contents(self, released: Mapping[bytes, bytes | None]) -> None:
        for oid, blob in released.items():
            if blob is not None and blob[SIGNATURE_BYTES] & _SPECIAL:
                self._release_contents(oid, blob)

    def _release_contents(self, oid: bytes, blob: bytes) -> None:
        process = self._process
        try:
            value = process.codec.verify(oid, blob)
        except TamperedError as error:
            logger.warning("%s", error)
            return
        segment = process.codec.segment(value)
        if segment is not None:
            process.segments.release(segment)
        caller, sequence, index = split_object_id(oid)
        owner = f"{caller.hex()}/o{sequence}.{index}"
        if value.objects:
            self._give_up([inner.hex() for inner in value.objects], owner)
        for actor in value.actors:
            if process.control.release_hold(actor.hex(), owner):
                process.send_stop(actor)

    # -- the clock -------------------------------------------------------------------

    def tick(self) -> float:
        """Do what is due; returns when to come again (monotonic seconds)."""
        process = self._process
        now, again = monotonic(), float("inf")
        with process.lock:
            self.collect()
            for box in [box for box in process.shared if not box.unresolved]:
                del process.shared[box]
        try:
            if process.lost_lease == process.caller.hex():
                lease_lost(process)
            if process.connected:
                self._do(now)
        except Exception as error:
            if is_lost(error) or isinstance(error, LOST):
                process.on_lost()
            elif not is_outage(error):
                raise
            logger.debug("housekeeping was interrupted: %s", error)
            again = now + _AGAIN
        process.run_after()
        return min(again, self._next(now))

    def _do(self, now: float) -> None:
        process = self._process
        self._beat(now)
        process.flush()
        process.recovery.run()
        for _ in range(len(self._postponed)):  # what is put back now has its turn later
            self._postponed.popleft()()
        process.executors.tick(now)
        process.groups.run(now)
        process.ownership.run()
        self._resend(now)
        self._extend(now)
        self._release_carried()
        self._release_values()

    def try_again(self, action: Callable[[], None]) -> None:
        """Have the background thread do what Redis could not do now.  Any thread.

        :param action: raises no outage; while one lasts it comes here again.
        """
        self._postponed.append(action)

    def _next(self, now: float) -> float:
        process = self._process
        due = [
            self._extend_due,
            self._heartbeat_due,
            process.groups.next_due,
        ]
        with process.lock:
            due += [process.recovery.next_due, process.executors.next_due]
            due += [box.next_resend for box in process.outboxes.values() if box.next_resend]
            if self._postponed:
                due.append(now + _AGAIN)
            # A finalizer can't wake anybody: while something may be dropped, look.
            if process.objects.entries or len(process.holds):
                due.append(now + _COLLECT_EVERY)
        return min(due)

    def _beat(self, now: float) -> None:
        process = self._process
        if process.segments.store.owns_files:
            process.segments.store.collect()
        process.segments.rings.forget_idle()
        if now >= self._heartbeat_due and process.mailbox.lock.acquire(timeout=0.1):
            try:
                self._heartbeat_due = now + _HEARTBEAT_EVERY
                process.mailbox.heartbeat()
            except LOST as error:
                process.on_mailbox_lost(error)
            finally:
                process.mailbox.lock.release()
            process.flush()  # for those who found the lock taken

    def _resend(self, now: float) -> None:
        """A caller without progress sends its last call again; if that helps not, it looks."""
        process = self._process
        with process.lock:
            due = [
                (box, call)
                for box in process.outboxes.values()
                if (call := box.resend_due(now)) is not None
            ]
        for box, call in due:
            if box.resends > 1:
                process.recovery.check_if_dead(box)
            with process.lock:
                if call.sequence in box.unresolved and call not in box.unsent:
                    box.unsent.appendleft(call)
                    process.dirty[box] = None
        if due:
            process.flush()

    def _extend(self, now: float) -> None:
        """Keep the stored values to which this process holds refs, and its places as a waiter."""
        process = self._process
        if now < self._extend_due:
            return
        self._extend_due = now + process.settings.result_ttl / 3
        with process.lock:
            entries = process.objects.entries
            oids = [oid for oid, entry in entries.items() if not entry.pending]
            awaited = [oid for oid, entry in entries.items() if entry.foreign and entry.is_awaited]
        process.recovery.resolve_later(awaited)
        oids += self._lent
        self._returned.extend(self._lent)  # the word that one came back may have been lost
        if oids:
            process.results.extend(oids)


_SPECIAL = ValueFlag.CONTAINS | ValueFlag.SHARED
