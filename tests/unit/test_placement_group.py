"""Placement groups: what is refused where it is written, the handle, and the inherited group."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from typing import Any, cast

import pytest

import celery_actors as ray
from celery_actors.client.process import Process
from celery_actors.control import Target
from celery_actors.exceptions import PlacementGroupRemoved
from celery_actors.ids import PlacementGroupID
from celery_actors.placement import Destination, destination
from celery_actors.util import placement_group
from celery_actors.util.placement_group import PlacementGroup, get_current_placement_group
from celery_actors.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from celery_actors.worker.context import Assignment, set_assignment

GROUP = "0123456789abcdef" * 2
ONE = 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bundles": []}, "at least one dict"),
        ({"bundles": {"CPU": 1}}, "at least one dict"),
        ({"bundles": [1]}, "bundle 0 must be a dict"),
        ({"bundles": [{"CPU": 1}, {}]}, "bundle 1 reserves nothing"),
        ({"bundles": [{"CPU": 0, "GPU": 0}]}, "bundle 0 reserves nothing"),
        ({"bundles": [{"CPU": -1}]}, "bundle 0: CPU must be a number of 0 or more"),
        ({"bundles": [{"CPU": "1"}]}, "CPU must be a number"),
        ({"bundles": [{"CPU": True}]}, "is no resource and amount"),
        ({"bundles": [{1: 1}]}, "is no resource and amount"),
        ({"bundles": [{"GPU": 1.5}]}, "must be a whole number"),
        ({"bundles": [{"CPU": 0.00001}]}, "finer than 1/10000"),
        ({"strategy": "pack"}, "'pack' is not known; there are: PACK, SPREAD, STRICT_PACK"),
        ({"lifetime": "for ever"}, "None or 'detached'"),
        ({"name": 5}, "name must be a string"),
        ({"bundle_label_selector": [{}, {}]}, "list of 1 dicts"),
        ({"bundle_label_selector": [{"zone": "a b"}]}, "label_selector"),
    ],
)
def test_what_makes_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        placement_group(**{"bundles": [{"CPU": 1}], **arguments})
    assert not ray.is_initialized()


def test_the_function_hides_the_module_as_in_ray() -> None:
    module = sys.modules["celery_actors.util.placement_group"]
    assert ray.util.placement_group is placement_group is module.placement_group
    assert ray.util.remove_placement_group is module.remove_placement_group


def test_handles_are_equal_by_id_and_travel() -> None:
    group = PlacementGroup(PlacementGroupID.from_hex(GROUP), [{"CPU": 1}, {"GPU": 0.5}])
    copy = pickle.loads(pickle.dumps(group))
    assert copy == group == PlacementGroup(PlacementGroupID.from_hex(GROUP))
    assert len({copy, group}) == 1
    assert copy.bundle_specs == [{"CPU": 1}, {"GPU": 0.5}]
    assert copy.bundle_count == 2
    assert copy != PlacementGroup.empty()
    assert copy != GROUP
    assert GROUP in repr(group)
    group.bundle_specs[0]["CPU"] = 5
    assert group.bundle_specs[0] == {"CPU": 1}, "what it reserves never changes"


def test_the_handle_to_no_group() -> None:
    empty = PlacementGroup.empty()
    assert empty.is_empty
    assert empty.id.is_nil()
    assert empty.bundle_count == 0


def test_ids() -> None:
    group_id = PlacementGroupID.from_hex(GROUP)
    assert group_id.hex() == GROUP
    assert group_id.binary() == bytes.fromhex(GROUP)
    assert pickle.loads(pickle.dumps(group_id)) == group_id
    assert group_id != GROUP
    for text in ("", "ab", GROUP + "ab", "x" * 32):
        with pytest.raises(ValueError, match=r"id has 16 bytes|hex"):
            PlacementGroupID.from_hex(text)


# -- where something goes ---------------------------------------------------------------------


class Known:
    """Of a process: the bundles of the group that it knows."""

    def __init__(self) -> None:
        self.groups = self

    def bundles(self, group_id: str) -> Any:
        if group_id != GROUP:
            raise PlacementGroupRemoved(group_id)
        return ({"CPU": ONE}, {"CPU": 4 * ONE, "GPU": ONE})


@pytest.fixture
def group() -> PlacementGroup:
    return PlacementGroup(PlacementGroupID.from_hex(GROUP))


@pytest.fixture
def inside() -> Iterator[None]:
    """As in an actor that runs in the group, and whose children do."""
    set_assignment(Assignment(group=GROUP, captures=True))
    yield
    set_assignment(Assignment())


def find(strategy: Any, **requested: int) -> Destination:
    return destination(cast(Process, Known()), strategy, None, requested, "actor Net")


def test_a_bundle_that_is_not_there(group: PlacementGroup) -> None:
    for index in (2, -2, 0.5, True, None):
        with pytest.raises(ValueError, match=rf"no bundle {index}: its bundles are 0 to 1"):
            find(PlacementGroupSchedulingStrategy(group, cast(int, index)))
    for nothing in (None, PlacementGroup.empty()):
        with pytest.raises(ValueError, match="bundle index 0 of no placement group"):
            find(PlacementGroupSchedulingStrategy(nothing, 0))
        assert find(PlacementGroupSchedulingStrategy(nothing)) == Destination(Target())
    with pytest.raises(TypeError, match="takes a PlacementGroup, not '0123"):
        find(PlacementGroupSchedulingStrategy(GROUP))
    with pytest.raises(PlacementGroupRemoved):
        find(PlacementGroupSchedulingStrategy(PlacementGroup(PlacementGroupID(b"x" * 16))))


def test_more_than_the_bundle_has(group: PlacementGroup) -> None:
    with pytest.raises(
        ValueError,
        match=r"actor Net asks for {CPU: 5}: no bundle of .* has that much: {CPU: 1}, {CPU: 4, G",
    ):
        find(PlacementGroupSchedulingStrategy(group), CPU=5 * ONE)
    with pytest.raises(ValueError, match=r"bundle 0 of .* does not have that much: {CPU: 1}$"):
        find(PlacementGroupSchedulingStrategy(group, 0), CPU=2 * ONE)
    with pytest.raises(ValueError, match="robot"):
        find(PlacementGroupSchedulingStrategy(group), robot=1)
    assert find(PlacementGroupSchedulingStrategy(group), CPU=4 * ONE).target.bundle == -1


def test_children_are_captured_only_where_that_was_asked_for(group: PlacementGroup) -> None:
    for captures in (None, False, True):
        strategy = PlacementGroupSchedulingStrategy(
            group, 1, placement_group_capture_child_tasks=captures
        )
        assert find(strategy) == Destination(Target(group=GROUP, bundle=1), bool(captures))
    assert find(None) == Destination(Target())


def test_what_a_captured_child_inherits(group: PlacementGroup, inside: None) -> None:
    assert get_current_placement_group() == group
    assert find(None) == Destination(Target(group=GROUP), captures=True)
    for strategy in ("DEFAULT", "SPREAD", PlacementGroupSchedulingStrategy(None)):
        assert find(strategy).target.group == ""
        assert not find(strategy).captures
    strategy = PlacementGroupSchedulingStrategy(group, 0)
    assert find(strategy) == Destination(Target(group=GROUP, bundle=0), captures=True)
    with pytest.raises(ValueError, match="no bundle"):
        find(None, CPU=9 * ONE)


def test_a_driver_runs_in_no_group() -> None:
    assert get_current_placement_group() is None
