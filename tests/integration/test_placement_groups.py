"""Placement groups on the real brokers: three nodes, all on this machine."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fixture_types import RunScript, StartNode
from waiting import record_of, wait_for_state, wait_until, wait_until_alive

import celery_actors as ray
from celery_actors.exceptions import (
    ActorDiedError,
    ActorPlacementGroupRemoved,
    GroupNameTaken,
    TaskPlacementGroupRemoved,
)
from celery_actors.session import SessionInfo
from celery_actors.util import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from celery_actors.util.placement_group import PlacementGroup
from celery_actors.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from celery_actors.worker.context import current_assignment

Strategy = PlacementGroupSchedulingStrategy


@pytest.fixture(scope="module", autouse=True)
def three_nodes(driver: SessionInfo, start_node: StartNode) -> None:
    for name in "abc":
        start_node(name, num_cpus=2, num_gpus=2, labels={"zone": name})
    wait_until(lambda: len(ray.nodes()) == 3, "three nodes")


@pytest.fixture(autouse=True)
def all_free() -> Iterator[None]:
    yield
    gc.collect()
    for table in placement_group_table().values():
        assert table["state"] == "REMOVED", table
    wait_until(
        lambda: ray.available_resources() == ray.cluster_resources(), "all resources given back"
    )


@pytest.fixture
def groups() -> Iterator[list[PlacementGroup]]:
    """Removes at the end what a test puts in."""
    made: list[PlacementGroup] = []
    yield made
    for group in made:
        remove_placement_group(group)


@ray.remote
class Where:
    """Says where it runs, and creates others."""

    def node(self) -> str | None:
        return current_assignment().node_id

    def gpus(self) -> list[int]:
        return ray.get_gpu_ids()

    def group(self) -> PlacementGroup | None:
        return get_current_placement_group()

    def children(self, **options: Any) -> list[PlacementGroup | None]:
        """The groups of a task and of an actor that it creates."""
        self.child = Where.options(**options).remote()
        return ray.get([where_group.options(**options).remote(), self.child.group.remote()])

    def pid(self) -> int:
        return os.getpid()


@ray.remote(num_cpus=0)
def where_group(seconds: float = 0) -> PlacementGroup | None:
    time.sleep(seconds)
    return get_current_placement_group()


@ray.remote(num_cpus=1)
def where(seconds: float = 0) -> str | None:
    time.sleep(seconds)
    return current_assignment().node_id


def names(group: PlacementGroup) -> list[str]:
    by_id = {node["NodeID"]: node["NodeName"] for node in ray.nodes()}
    nodes = placement_group_table(group)["bundles_to_node_id"]
    return [by_id.get(nodes[index], "") for index in sorted(nodes)]


def state(group: PlacementGroup) -> str:
    return str(placement_group_table(group)["state"])


def test_strategies(groups: list[PlacementGroup]) -> None:
    ones = [{"CPU": 1}] * 2
    for strategy, count in (
        ("PACK", 1),
        ("SPREAD", 2),
        ("STRICT_PACK", 1),
        ("STRICT_SPREAD", 2),
    ):
        group = placement_group(ones, strategy=strategy)
        groups.append(group)
        assert ray.get(group.ready(), timeout=60) == group
        assert group.wait(0)
        assert len(set(names(group))) == count, strategy
        assert placement_group_table(group)["strategy"] == strategy
        remove_placement_group(group)


def test_what_is_reserved_is_not_available(groups: list[PlacementGroup]) -> None:
    group = placement_group([{"CPU": 2, "GPU": 1}, {"CPU": 1}])
    groups.append(group)
    assert group.wait(60)
    free = ray.available_resources()
    assert (free["CPU"], free["GPU"]) == (3, 5)
    remove_placement_group(group)
    assert state(group) == "REMOVED"
    free = ray.available_resources()
    assert (free["CPU"], free["GPU"]) == (6, 6)


def test_actors_and_tasks_run_in_their_bundle(groups: list[PlacementGroup]) -> None:
    group = placement_group([{"CPU": 2}, {"CPU": 2}, {"CPU": 2}], strategy="STRICT_SPREAD")
    groups.append(group)
    where_they_lie = placement_group_table(group)["bundles_to_node_id"]
    for index in range(3):
        strategy = Strategy(group, placement_group_bundle_index=index)
        actor = Where.options(num_cpus=1, scheduling_strategy=strategy).remote()
        task = where.options(scheduling_strategy=strategy).remote()
        assert ray.get([actor.node.remote(), task]) == [where_they_lie[index]] * 2
        assert ray.get(actor.group.remote()) == group
    del actor
    gc.collect()
    members = [
        Where.options(num_cpus=2, scheduling_strategy=Strategy(group)).remote() for _ in range(3)
    ]
    nodes = ray.get([member.node.remote() for member in members], timeout=60)
    assert sorted(nodes) == sorted(where_they_lie.values())


def test_gpus_of_a_bundle(groups: list[PlacementGroup]) -> None:
    group = placement_group([{"GPU": 2}, {"GPU": 1}], strategy="STRICT_SPREAD")
    groups.append(group)
    assert group.wait(60)
    outside = Where.options(num_gpus=1, label_selector={"zone": names(group)[1]}).remote()
    both = [
        Where.options(num_gpus=1, scheduling_strategy=Strategy(group, 0)).remote() for _ in range(2)
    ]
    one = Where.options(num_gpus=1, scheduling_strategy=Strategy(group, 1)).remote()
    halves = [
        Where.options(num_gpus=0.5, scheduling_strategy=Strategy(group, 1)).remote()
        for _ in range(2)
    ]
    first, second = ray.get([actor.gpus.remote() for actor in both])
    assert sorted(first + second) == [0, 1]
    assert sorted(ray.get(one.gpus.remote()) + ray.get(outside.gpus.remote())) == [0, 1]
    assert record_of(halves[0]).state == "PENDING"
    ids = ray.get(one.gpus.remote())
    ray.kill(one)
    assert ray.get([half.gpus.remote() for half in halves], timeout=60) == [ids, ids]


def test_what_fits_in_no_bundle_is_an_error(groups: list[PlacementGroup]) -> None:
    group = placement_group([{"CPU": 1}, {"CPU": 2, "GPU": 1}])
    groups.append(group)
    with pytest.raises(ValueError, match=r"actor Where asks for {CPU: 3}: no bundle of"):
        Where.options(num_cpus=3, scheduling_strategy=Strategy(group)).remote()
    with pytest.raises(ValueError, match=r"task where: .*has no bundle 2: its bundles are 0 to 1"):
        where.options(scheduling_strategy=Strategy(group, 2)).remote()
    with pytest.raises(ValueError, match=r"bundle 0 of .* does not have that much: {CPU: 1}"):
        where.options(num_gpus=1, scheduling_strategy=Strategy(group, 0)).remote()


def test_a_group_that_has_no_room_waits(groups: list[PlacementGroup]) -> None:
    too_large = placement_group([{"CPU": 3}])
    first = placement_group([{"CPU": 2}] * 3)
    second = placement_group([{"CPU": 2}] * 2, strategy="SPREAD")
    groups += [too_large, first, second]
    assert first.wait(60)
    ready = second.ready()
    before = time.monotonic()
    assert not second.wait(0.2)
    assert time.monotonic() - before >= 0.2
    assert not too_large.wait(0)
    assert ray.wait([ready], timeout=0) == ([], [ready])
    with pytest.raises(ray.exceptions.GetTimeoutError):
        ray.get(ready, timeout=0.1)
    member = Where.options(num_cpus=1, scheduling_strategy=Strategy(second)).remote()
    call = member.group.remote()
    assert record_of(member).state == "PENDING"
    remove_placement_group(first)
    assert ray.get(ready, timeout=60) == second
    assert ray.get(call, timeout=60) == second
    assert state(too_large) == "PENDING"
    waiting = too_large.ready()
    remove_placement_group(too_large)
    with pytest.raises(TaskPlacementGroupRemoved, match=f"{too_large.id.hex()} was removed"):
        ray.get(waiting, timeout=60)
    assert not too_large.wait(0)


def test_ready_is_a_ref_like_any_other(groups: list[PlacementGroup]) -> None:
    @ray.remote(num_cpus=0)
    def ids(group: PlacementGroup, nested: list[ray.ObjectRef[PlacementGroup]]) -> list[str]:
        return [group.id.hex(), ray.get(nested[0]).id.hex(), str(group.bundle_specs)]

    holder = placement_group([{"CPU": 2}] * 3)
    groups.append(holder)
    assert holder.wait(60)
    group = placement_group([{"CPU": 1}])
    groups.append(group)
    ready = group.ready()
    task = ids.remote(holder.ready(), [ready])
    assert ray.wait([task], timeout=1)[0] == [], "it waits for the ref that it was given"

    async def wait() -> PlacementGroup:
        return await ready

    remove_placement_group(holder)
    assert asyncio.run(wait()) == group
    assert ray.get(task, timeout=60) == [holder.id.hex(), group.id.hex(), str([{"CPU": 2.0}] * 3)]
    assert ray.get(PlacementGroup.empty().ready()).is_empty


def test_removal_kills_what_runs_in_the_group(groups: list[PlacementGroup]) -> None:
    group = placement_group([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_PACK")
    groups.append(group)
    inside = Where.options(num_cpus=1, scheduling_strategy=Strategy(group)).remote()
    outside = Where.remote()
    pid = ray.get(inside.pid.remote())
    running = where.options(scheduling_strategy=Strategy(group)).remote(60)
    waiting = where.options(scheduling_strategy=Strategy(group)).remote()
    pending = Where.options(num_cpus=1, scheduling_strategy=Strategy(group)).remote()
    call = pending.pid.remote()
    wait_until(lambda: ray.available_resources()["CPU"] == 4, "the group to be placed")
    wait_until_alive(inside)
    assert record_of(pending).state == "PENDING"
    remove_placement_group(group)
    for ref in (inside.pid.remote(), call):
        with pytest.raises(ActorDiedError, match=f"placement group {group.id.hex()} was removed"):
            ray.get(ref, timeout=60)
    for ref in (running, waiting):
        with pytest.raises(TaskPlacementGroupRemoved, match="was removed"):
            ray.get(ref, timeout=60)
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the end of the process")  # noqa: PTH110
    assert ray.get(outside.pid.remote()) > 0
    with pytest.raises(ActorPlacementGroupRemoved, match="nothing can run in it"):
        Where.options(scheduling_strategy=Strategy(group)).remote()
    with pytest.raises(TaskPlacementGroupRemoved, match="nothing can run in it"):
        ray.get(where.options(scheduling_strategy=Strategy(group)).remote(), timeout=60)
    remove_placement_group(group)


def test_children_are_captured_where_asked_for(groups: list[PlacementGroup]) -> None:
    group = placement_group([{"CPU": 2}])
    groups.append(group)
    plain = Where.options(scheduling_strategy=Strategy(group)).remote()
    assert ray.get(plain.children.remote()) == [None, None]
    captures = Strategy(group, 0, placement_group_capture_child_tasks=True)
    parent = Where.options(scheduling_strategy=captures).remote()
    assert ray.get(parent.children.remote()) == [group, group]
    assert ray.get(parent.children.remote(scheduling_strategy="DEFAULT")) == [None, None]
    outside = Strategy(None)
    assert ray.get(parent.children.remote(scheduling_strategy=outside)) == [None, None]

    @ray.remote(num_cpus=0)
    def task() -> list[PlacementGroup | None]:
        return [ray.get(where_group.remote()), get_current_placement_group()]

    @ray.remote(num_cpus=0)
    def outer() -> list[PlacementGroup | None]:
        return list(ray.get(task.remote()))

    assert ray.get(outer.options(scheduling_strategy=captures).remote()) == [group, group]
    assert get_current_placement_group() is None


def test_a_task_may_make_a_group_and_wait_for_it() -> None:
    @ray.remote(num_cpus=2)
    def use(label: str) -> list[str | None]:
        """Holds all CPUs of its node, and needs them for the group."""
        selector = [{"zone": label}]
        group = placement_group([{"CPU": 2}], bundle_label_selector=selector)
        assert group.wait(60)
        found = ray.get(where.options(scheduling_strategy=Strategy(group)).remote())
        remove_placement_group(group)
        return [current_assignment().node_id, found]

    mine, theirs = ray.get(use.options(label_selector={"zone": "b"}).remote("b"), timeout=60)
    assert mine == theirs


def test_names_and_tables(groups: list[PlacementGroup]) -> None:
    group = placement_group([{"CPU": 1}, {"GPU": 0.5}], strategy="SPREAD", name="training")
    groups.append(group)
    assert group.wait(60)
    assert get_placement_group("training") == group
    assert get_placement_group("training").bundle_specs == [{"CPU": 1}, {"GPU": 0.5}]
    with pytest.raises(GroupNameTaken, match="'training' already"):
        placement_group([{"CPU": 1}], name="training")
    table = placement_group_table(group)
    assert table["placement_group_id"] == group.id.hex()
    assert (table["name"], table["state"]) == ("training", "CREATED")
    assert table["bundles"] == {0: {"CPU": 1}, 1: {"GPU": 0.5}}
    assert table["stats"]["scheduling_state"] == "FINISHED"
    assert table["stats"]["scheduling_attempt"] >= 1
    assert set(table["bundles_to_node_id"].values()) <= {n["NodeID"] for n in ray.nodes()}
    assert placement_group_table()[group.id.hex()] == table
    remove_placement_group(group)
    with pytest.raises(ValueError, match="no placement group named 'training'"):
        get_placement_group("training")
    with pytest.raises(ValueError, match="needs a name"):
        get_placement_group("")


def test_a_lost_node_s_bundles_are_laid_out_anew(
    start_node: StartNode, groups: list[PlacementGroup]
) -> None:
    late = start_node("late", num_cpus=2, resources={"robot": 2})
    wait_until(lambda: len(ray.nodes()) == 4, "the fourth node")
    group = placement_group([{"CPU": 1}, {"robot": 1}], strategy="STRICT_SPREAD")
    groups.append(group)
    assert group.wait(60)
    assert names(group)[1] == "late"
    stays = Where.options(scheduling_strategy=Strategy(group, 0)).remote()
    pid = ray.get(stays.pid.remote())
    lost = Where.options(scheduling_strategy=Strategy(group, 1)).remote()
    lost_id = record_of(lost).actor_id
    ray.get(lost.pid.remote())
    late.terminate()
    wait_for_state(lost_id, "DEAD")
    assert state(group) == "RESCHEDULING"
    again = group.ready()
    call = Where.options(scheduling_strategy=Strategy(group, 1)).remote().node.remote()
    assert ray.get(stays.pid.remote()) == pid
    assert ray.wait([again], timeout=0.2)[0] == []
    another = start_node("another", num_cpus=1, resources={"robot": 1})
    assert ray.get(again, timeout=60) == group
    assert names(group)[1] == "another"
    assert ray.get(call, timeout=60) == placement_group_table(group)["bundles_to_node_id"][1]
    remove_placement_group(group)
    _stop(another)


def _stop(node: subprocess.Popen[bytes]) -> None:
    node.terminate()
    wait_until(lambda: len(ray.nodes()) == 3, "the end of the node")


GROUPS = """
import sys
import celery_actors as ray
from celery_actors.util import placement_group
ray.init()
kept = placement_group([{"CPU": 1}], lifetime="detached")
gone = placement_group([{"CPU": 1}])
waiting = placement_group([{"CPU": 100}])
assert kept.wait(60) and gone.wait(60)
print(kept.id.hex())
"""


def test_groups_end_with_their_job_but_detached_ones(run_script: RunScript) -> None:
    kept = run_script(GROUPS).stdout.split()[-1]
    states = {group_id: row["state"] for group_id, row in placement_group_table().items()}
    assert states[kept] == "CREATED"
    assert list(states.values()).count("CREATED") == 1
    assert "PENDING" not in states.values()
    assert ray.available_resources()["CPU"] == 5
    remove_placement_group(PlacementGroup(type(PlacementGroup.empty().id).from_hex(kept)))
    assert kept not in placement_group_table(), "its job is forgotten"
