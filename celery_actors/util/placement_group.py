"""Placement groups: resources reserved together, on nodes that a strategy chooses.

Names and meanings as in Ray's ``ray.util.placement_group``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, cast

from celery_actors import serialization
from celery_actors.client.current import require_process
from celery_actors.control import GroupRecord, GroupStrategy, amounts
from celery_actors.exceptions import GetTimeoutError, PlacementGroupRemoved
from celery_actors.ids import PlacementGroupID
from celery_actors.options import units
from celery_actors.refs import ObjectRef
from celery_actors.scheduling import label_rules
from celery_actors.worker.context import current_assignment

__all__ = [
    "PlacementGroup",
    "get_current_placement_group",
    "get_placement_group",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]

logger = logging.getLogger(__name__)

_STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")


class PlacementGroup:
    """A handle to a placement group; it may be copied, passed and stored.

    :ivar id: its id.
    """

    __slots__ = ("_bundles", "id")

    def __init__(
        self,
        id: PlacementGroupID,  # noqa: A002 - Ray's name
        bundles: Sequence[Mapping[str, float]] | None = None,
    ) -> None:
        self.id = id
        self._bundles = None if bundles is None else [dict(bundle) for bundle in bundles]

    @staticmethod
    def empty() -> PlacementGroup:
        """Return the handle to no group."""
        return PlacementGroup(PlacementGroupID.nil(), [])

    @property
    def is_empty(self) -> bool:
        """Whether it is the handle to no group."""
        return self.id.is_nil()

    @property
    def bundle_specs(self) -> list[dict[str, float]]:
        """What each bundle reserves.

        :raises PlacementGroupRemoved: the group is not known (any more).
        """
        if self._bundles is None:
            bundles = require_process().groups.bundles(self.id.hex())
            self._bundles = [amounts(bundle) for bundle in bundles]
        return [dict(bundle) for bundle in self._bundles]

    @property
    def bundle_count(self) -> int:
        """How many bundles there are."""
        return len(self.bundle_specs)

    def ready(self) -> ObjectRef[PlacementGroup]:
        """Return a ref to this handle, whose value is there once all bundles are reserved.

        Getting it raises ``TaskPlacementGroupRemoved`` if the group is removed before (as
        Ray).
        """
        process = require_process()
        dumped = serialization.dumps(self, lambda: "a placement group")
        if self.is_empty:
            return ObjectRef(process.put(dumped))
        return ObjectRef(process.groups.when_created(self.id.hex(), dumped))

    def wait(self, timeout_seconds: float = 30) -> bool:
        """Wait until all bundles are reserved.

        :param timeout_seconds: how long at most; 0 only looks.
        :returns: whether they are.  A group that was removed is not.
        """
        ready = self.ready()  # what nobody has a ref to is not waited for
        try:
            require_process().values.get([ready.entry], timeout_seconds)
        except (GetTimeoutError, PlacementGroupRemoved):
            return False
        return True

    def __eq__(self, other: object) -> bool:
        return self.id == other.id if isinstance(other, PlacementGroup) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"PlacementGroup({self.id.hex()})"

    def __reduce__(self) -> tuple[type[PlacementGroup], tuple[Any, ...]]:
        return PlacementGroup, (self.id, self._bundles)


def placement_group(
    bundles: Sequence[Mapping[str, float]],
    strategy: str | None = None,
    name: str = "",
    lifetime: str | None = None,
    *,
    bundle_label_selector: Sequence[Mapping[str, str]] | None = None,
) -> PlacementGroup:
    """Reserve bundles of resources, all together; returns at once.

    Until there is room for all of them none is reserved; the group waits in the same line
    as actors.  It lasts until it is removed, or its job ends.

    :param bundles: what each reserves, as ``{"CPU": 2, "GPU": 1}``.
    :param strategy: ``"PACK"`` (the default): on as few nodes as possible; ``"SPREAD"``: on
        as many as possible; ``"STRICT_PACK"``: on one; ``"STRICT_SPREAD"``: each on another.
    :param name: for :func:`get_placement_group`.
    :param lifetime: ``"detached"``: it outlives its job.
    :param bundle_label_selector: for each bundle, the labels that its node must have.
    :raises ValueError: an argument makes no sense, or another group has that name.

    Example::

        group = placement_group([{"CPU": 1}] * 2, strategy="STRICT_SPREAD")
        celery_actors.get(group.ready())
        where = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=1)
        Counter.options(num_cpus=1, scheduling_strategy=where).remote()
    """
    reserved = tuple(_checked_bundles(bundles))
    chosen = "PACK" if strategy is None else strategy
    if chosen not in _STRATEGIES:
        raise ValueError(f"strategy {strategy!r} is not known; there are: {', '.join(_STRATEGIES)}")
    if lifetime not in (None, "detached"):
        raise ValueError(f"lifetime must be None or 'detached', not {lifetime!r}")
    if not isinstance(name, str):
        raise ValueError(f"name must be a string, not {name!r}")
    labels = _checked_selectors(bundle_label_selector, len(reserved))
    process = require_process()
    detached = lifetime == "detached"
    if detached and process.ends_cluster:
        logger.warning(
            "a detached placement group in this program's private cluster ends with it: begin a "
            "cluster that stays with `celery-actors start --head`"
        )
    group_id = process.groups.create(reserved, cast(GroupStrategy, chosen), labels, name, detached)
    return _handle(group_id, reserved)


def remove_placement_group(placement_group: PlacementGroup) -> None:
    """Remove a group: what runs in it is killed, what it reserved is free again.

    Does nothing if it is removed already.
    """
    if not isinstance(placement_group, PlacementGroup):
        raise TypeError(f"remove_placement_group() takes a PlacementGroup, not {placement_group!r}")
    if not placement_group.is_empty:
        group_id = placement_group.id.hex()
        cause = f"its placement group {group_id} was removed"
        require_process().groups.remove(group_id, cause)


def get_placement_group(placement_group_name: str) -> PlacementGroup:
    """Return the group that was created with that name.

    :raises ValueError: there is none.
    """
    if not placement_group_name:
        raise ValueError("get_placement_group() needs a name")
    group_id = require_process().groups.named(placement_group_name)
    if group_id is None:
        raise ValueError(
            f"there is no placement group named {placement_group_name!r} in this namespace (was "
            "it removed, or created in another?)"
        )
    return PlacementGroup(PlacementGroupID.from_hex(group_id))


def get_current_placement_group() -> PlacementGroup | None:
    """Return the group in which this actor or task runs; ``None``: in none, as a driver."""
    group_id = current_assignment().group
    return PlacementGroup(PlacementGroupID.from_hex(group_id)) if group_id else None


def placement_group_table(placement_group: PlacementGroup | None = None) -> dict[str, Any]:
    """Return what is known of a group, or of all groups by their ids (in hex).

    Of each: ``placement_group_id``, ``name``, ``bundles`` and ``bundles_to_node_id`` by
    index, ``strategy``, ``state`` (PENDING, CREATED, RESCHEDULING or REMOVED), ``stats``.
    A group that is not known has an empty table.
    """
    control = require_process().control
    if placement_group is None:
        return {record.group_id: _row(record) for record in control.groups()}
    record = control.group(placement_group.id.hex())
    return {} if record is None else _row(record)


def _row(record: GroupRecord) -> dict[str, Any]:
    placed = record.placed_at
    latency = 0.0 if placed is None else (placed - record.created_at) * 1000
    waiting = "NO_RESOURCES" if record.attempts else "QUEUED"
    states = {"CREATED": "FINISHED", "REMOVED": "REMOVED"}
    return {
        "placement_group_id": record.group_id,
        "name": record.name,
        "bundles": {index: amounts(bundle) for index, bundle in enumerate(record.bundles)},
        "bundles_to_node_id": {index: node or "" for index, node in enumerate(record.node_ids)},
        "strategy": record.strategy,
        "state": record.state,
        "stats": {
            "end_to_end_creation_latency_ms": latency,
            # An attempt is one step of the control store, at one time of its clock.
            "scheduling_latency_ms": 0.0,
            "scheduling_attempt": record.attempts,
            # The next attempt follows what frees resources, and not a timer.
            "highest_retry_delay_ms": 0.0,
            "scheduling_state": states.get(record.state, waiting),
        },
    }


def _handle(group_id: str, bundles: Sequence[Mapping[str, int]]) -> PlacementGroup:
    return PlacementGroup(PlacementGroupID.from_hex(group_id), [amounts(b) for b in bundles])


def _checked_bundles(bundles: Any) -> list[dict[str, int]]:
    if not isinstance(bundles, (list, tuple)) or not bundles:
        raise ValueError(
            f"bundles must be a list of at least one dict, as [{{'CPU': 1}}], not {bundles!r:.100}"
        )
    return [_checked_bundle(index, bundle) for index, bundle in enumerate(bundles)]


def _checked_bundle(index: int, bundle: Any) -> dict[str, int]:
    if not isinstance(bundle, Mapping):
        raise ValueError(f"bundle {index} must be a dict, as {{'CPU': 1}}, not {bundle!r:.100}")
    reserved = {}
    for kind, amount in bundle.items():
        if not isinstance(kind, str) or isinstance(amount, bool):
            raise ValueError(f"bundle {index}: {kind!r}: {amount!r} is no resource and amount")
        if not isinstance(amount, (int, float)) or amount < 0:
            raise ValueError(f"bundle {index}: {kind} must be a number of 0 or more: {amount!r}")
        if amount and not units(amount):
            raise ValueError(f"bundle {index}: {kind}={amount} is finer than 1/10000")
        if kind == "GPU" and amount > 1 and amount % 1:
            raise ValueError(f"bundle {index}: more than one GPU must be a whole number: {amount}")
        if amount:
            reserved[kind] = units(amount)
    if not reserved:
        raise ValueError(f"bundle {index} reserves nothing: {bundle!r:.100}")
    return reserved


def _checked_selectors(selectors: Any, count: int) -> list[Any]:
    if selectors is None:
        return []
    if not isinstance(selectors, (list, tuple)) or len(selectors) not in (0, count):
        raise ValueError(
            f"bundle_label_selector must be a list of {count} dicts, one a bundle, not "
            f"{selectors!r:.100}"
        )
    return [label_rules(selector) for selector in selectors]
