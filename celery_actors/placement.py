"""Where a new actor or task goes: its own strategy, or the placement group that it inherits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from celery_actors.client.process import Process
from celery_actors.control import Target
from celery_actors.ids import PlacementGroupID
from celery_actors.scheduling import PlacementGroupSchedulingStrategy, target_of
from celery_actors.worker.context import current_assignment

__all__ = ["Destination", "destination"]


@dataclass(frozen=True, slots=True)
class Destination:
    """Where something new runs.

    :ivar captures: what it creates runs in its placement group as well.
    """

    target: Target
    captures: bool = False


def destination(
    process: Process,
    strategy: Any,
    selector: Mapping[str, str] | None,
    requested: Mapping[str, int],
    what: str,
) -> Destination:
    """Return where an actor or task with these options runs.

    :param requested: what it holds, in units of 1/10000.
    :param what: its name, for errors.
    :raises ValueError: there is no such bundle, or none is large enough.
    :raises TypeError: the strategy names something else than a placement group.
    :raises PlacementGroupRemoved: the group is not known (any more).
    """
    target = target_of(strategy, selector)
    here = current_assignment()
    group, index, captures = "", -1, here.captures
    if isinstance(strategy, PlacementGroupSchedulingStrategy):
        group = _id_of(strategy.placement_group)
        index = strategy.placement_group_bundle_index
        if strategy.placement_group_capture_child_tasks is not None:
            captures = strategy.placement_group_capture_child_tasks
        if not group and index != -1:
            raise ValueError(f"{what}: bundle index {index} of no placement group")
    elif strategy is None and here.captures:
        group = here.group
    if not group:
        return Destination(target)
    _check(process, group, index, requested, what)
    return Destination(replace(target, group=group, bundle=index), captures)


def _id_of(group: Any) -> str:
    if group is None:
        return ""
    group_id = getattr(group, "id", None)
    if not isinstance(group_id, PlacementGroupID):
        raise TypeError(
            f"PlacementGroupSchedulingStrategy takes a PlacementGroup, not {group!r:.100}"
        )
    return "" if group_id.is_nil() else group_id.hex()


def _check(
    process: Process, group: str, index: Any, requested: Mapping[str, int], what: str
) -> None:
    bundles = process.groups.bundles(group)
    if isinstance(index, bool) or not isinstance(index, int) or not -1 <= index < len(bundles):
        raise ValueError(
            f"{what}: placement group {group} has no bundle {index!r}: its bundles are 0 to "
            f"{len(bundles) - 1}, and -1 is any of them"
        )
    allowed = bundles if index == -1 else bundles[index : index + 1]
    if not any(
        all(bundle.get(kind, 0) >= units for kind, units in requested.items()) for bundle in allowed
    ):
        where = "no bundle" if index == -1 else f"bundle {index}"
        verb = "has" if index == -1 else "does not have"
        there = ", ".join(map(_text, allowed))
        raise ValueError(
            f"{what} asks for {_text(requested)}: {where} of placement group {group} {verb} that "
            f"much: {there}"
        )


def _text(amounts: Mapping[str, int]) -> str:
    parts = (f"{kind}: {units / 10_000:g}" for kind, units in sorted(amounts.items()))
    return f"{{{', '.join(parts)}}}"
