"""Placement groups, as one process sees them: created, awaited, removed.

Who waits for a group has an entry in the table of objects like any other's value; the
background thread settles it when a hint comes, and looks by itself from time to time.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING

from celery_actors.client.creation import delete_mailboxes, order_kills, order_starts
from celery_actors.client.objects import Entry, ObjectState
from celery_actors.control import GroupSpec, GroupStrategy, LabelRule
from celery_actors.exceptions import PlacementGroupRemoved, TaskPlacementGroupRemoved
from celery_actors.ids import object_id

if TYPE_CHECKING:
    from celery_actors.client.process import Process
    from celery_actors.serialization import Dumped

__all__ = ["Bundles", "Groups"]

Bundles = tuple[Mapping[str, int], ...]
"""What each bundle of a group reserves, in units of 1/10000."""

_LOOK_EVERY = 1.0


class Groups:
    """The placement groups that one process knows.

    The entries of those who wait are guarded by the process's lock.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._bundles: dict[str, Bundles] = {}
        self._awaited: dict[str, list[tuple[Entry, Dumped]]] = {}
        # Groups to look at, added to from any thread (set.add is atomic).
        self._changed: set[str] = set()
        self._look_at = 0.0

    def create(
        self,
        bundles: Bundles,
        strategy: GroupStrategy,
        labels: Sequence[tuple[LabelRule, ...]],
        name: str,
        detached: bool,
    ) -> str:
        """Create a group; returns its id.

        :raises GroupNameTaken: another group has that name.
        """
        process = self._process
        group_id = os.urandom(16).hex()
        process.control.create_group(
            GroupSpec(
                group_id=group_id,
                job_id=process.job_id,
                caller_id=process.caller.hex(),
                bundles=bundles,
                strategy=strategy,
                labels=tuple(labels),
                name=name,
                namespace=process.namespace,
                detached=detached,
                creator_actor=process.actor_hex,
            )
        )
        self._bundles[group_id] = bundles
        return group_id

    def named(self, name: str) -> str | None:
        """Return the id of the group of that name in this process's namespace."""
        return self._process.control.named_group(self._process.namespace, name)

    def bundles(self, group_id: str) -> Bundles:
        """Return what the bundles of a group reserve; they never change.

        :raises PlacementGroupRemoved: the group is not known (any more).
        """
        bundles = self._bundles.get(group_id)
        if bundles is None:
            record = self._process.control.group(group_id)
            if record is None:
                raise PlacementGroupRemoved(_removed(group_id))
            bundles = self._bundles[group_id] = record.bundles
        return bundles

    def remove(self, group_id: str, cause: str) -> None:
        """Remove a group, and have what runs in it killed."""
        process = self._process
        process.flush()
        removal = process.control.remove_group(group_id, cause)
        order_kills(process, removal.stop)
        if removal.cancelled:
            process.publish(lambda mailbox: delete_mailboxes(mailbox, removal.cancelled))
        order_starts(process, removal.placements)

    # -- waiting -------------------------------------------------------------------------

    def when_created(self, group_id: str, value: Dumped) -> Entry:
        """Return the entry of a value that is there once all bundles are reserved.

        :param value: the pickled value.
        """
        process = self._process
        with process.lock:
            entry = process.objects.add(object_id(process.caller, process.next_sequence()))
            self._awaited.setdefault(group_id, []).append((entry, value))
        # It is in the table first: a change from now on is not missed.
        self._look(group_id)
        process.run_after()
        process.listener.wake()
        return entry

    def changed(self, group_id: str) -> None:
        """Somebody says that a group has changed."""
        if group_id in self._awaited:
            self._changed.add(group_id)

    @property
    def next_due(self) -> float:
        """When :meth:`run` has something to do."""
        return self._look_at if self._awaited else float("inf")

    def run(self, now: float) -> None:
        """Look at the groups that changed, and from time to time at all.  Background thread."""
        if now >= self._look_at:
            self._look_at = now + _LOOK_EVERY
            with self._process.lock:
                self._changed.update(self._awaited)
        looked = False
        while self._changed:
            group_id = self._changed.pop()
            try:
                self._look(group_id)
            except BaseException:
                self._changed.add(group_id)
                raise
            looked = True
        if looked:
            self._process.run_after()
            self._process.listener.wake_all()

    def _look(self, group_id: str) -> None:
        process = self._process
        record = process.control.group(group_id)
        over = record is None or record.state in ("CREATED", "REMOVED")
        with process.lock:
            waiting = list(self._awaited.get(group_id, ()))
        if over:
            created = record is not None and record.state == "CREATED"
            error = None if created else TaskPlacementGroupRemoved(_removed(group_id))
            for entry, value in waiting:
                self._settle(entry, value, error)
        with process.lock:
            left = [
                (entry, value)
                for entry, value in self._awaited.pop(group_id, ())
                if entry.pending and not self._dropped(entry)
            ]
            if left:
                self._awaited[group_id] = left
        self._look_at = min(self._look_at, monotonic() + _LOOK_EVERY)

    def _dropped(self, entry: Entry) -> bool:
        """Forget an entry that nobody can have a ref to any more; whether it is one."""
        if entry.unwanted:
            self._process.objects.entries.pop(entry.oid, None)
        return entry.unwanted

    def _settle(self, entry: Entry, value: Dumped, error: Exception | None) -> None:
        process = self._process
        if error is None:
            blob = process.codec.encode(entry.oid, value)
        else:
            blob = process.codec.encode_error(entry.oid, error)
        process.results.settle({entry.oid: blob})  # others may have the ref, and wait for it
        with process.lock:
            process.objects.settle(entry, ObjectState.READY, blob)
            if entry.refs <= 0:
                process.housekeeping.discard(entry)


def _removed(group_id: str) -> str:
    return f"placement group {group_id} was removed: its bundles are no longer reserved"
