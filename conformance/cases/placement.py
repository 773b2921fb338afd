"""Placement groups, scheduling strategies and labels, on one node."""

from __future__ import annotations

import os

from conformance.case import case
from conformance.checks import raises, submodule, wait_until


def _group(ray, bundles, **options):
    return submodule(ray, "util.placement_group").placement_group(bundles, **options)


def _in(ray, group, **options):
    strategies = submodule(ray, "util.scheduling_strategies")
    return strategies.PlacementGroupSchedulingStrategy(placement_group=group, **options)


def _remove(ray, group):
    submodule(ray, "util").remove_placement_group(group)


@case("placement_group() reserves its bundles: ready() is a ref, wait() says True")
def ready(ray):
    group = _group(ray, [{"CPU": 1}, {"CPU": 1}])
    try:
        ray.get(group.ready(), timeout=12)
        assert group.wait(5) is True
        assert group.bundle_count == 2
    finally:
        _remove(ray, group)


@case("bundle_specs are the bundles that were asked for")
def bundle_specs(ray):
    group = _group(ray, [{"CPU": 1}, {"disk": 2}])
    try:
        ray.get(group.ready(), timeout=14)
        assert [dict(b) for b in group.bundle_specs] == [{"CPU": 1}, {"disk": 2}]
    finally:
        _remove(ray, group)


@case("ray.util has placement_group, remove_placement_group, get_placement_group and the table")
def names(ray):
    util = submodule(ray, "util")
    for name in (
        "placement_group",
        "remove_placement_group",
        "get_placement_group",
        "placement_group_table",
        "get_current_placement_group",
    ):
        assert callable(getattr(util, name))


@case("What a group reserves is taken from the cluster's available resources")
def reserves(ray):
    def free():
        return ray.available_resources().get("disk", 0)

    wait_until(lambda: free() == 4, "what others have held")
    group = _group(ray, [{"disk": 3}])
    ray.get(group.ready(), timeout=12)
    wait_until(lambda: free() == 1, "the reservation")
    _remove(ray, group)
    wait_until(lambda: free() == 4, "its end")


@case("An actor runs in a bundle and holds the group's resources, not others")
def actor_in_a_group(ray):
    group = _group(ray, [{"disk": 4}])

    @ray.remote(num_cpus=0, resources={"disk": 4})
    class Actor:
        def mine(self):
            return ray.get_runtime_context().get_placement_group_id()

    try:
        actor = Actor.options(scheduling_strategy=_in(ray, group)).remote()
        assert ray.get(actor.mine.remote(), timeout=12) == group.id.hex()
    finally:
        _remove(ray, group)


@case("A task runs in a bundle of its group")
def task_in_a_group(ray):
    group = _group(ray, [{"CPU": 1}])

    @ray.remote(num_cpus=1)
    def ask():
        return ray.get_runtime_context().get_placement_group_id()

    try:
        got = ray.get(ask.options(scheduling_strategy=_in(ray, group)).remote(), timeout=12)
        assert got == group.id.hex()
    finally:
        _remove(ray, group)


@case("A bundle's resources bound what runs in it: a second actor waits for the first")
def bundle_bounds(ray):
    group = _group(ray, [{"disk": 1}])

    @ray.remote(num_cpus=0, resources={"disk": 1})
    class Actor:
        def one(self):
            return 1

    Inside = Actor.options(scheduling_strategy=_in(ray, group))
    try:
        first = Inside.remote()
        ray.get(first.one.remote(), timeout=12)
        second = Inside.remote()
        ref = second.one.remote()
        assert ray.wait([ref], timeout=1)[0] == []
        ray.kill(first)
        assert ray.get(ref, timeout=12) == 1
    finally:
        _remove(ray, group)


@case("placement_group_bundle_index chooses the bundle")
def bundle_index(ray):
    group = _group(ray, [{"disk": 1}, {"disk": 2}])

    @ray.remote(num_cpus=0, resources={"disk": 2})
    class Actor:
        def one(self):
            return 1

    try:
        second = _in(ray, group, placement_group_bundle_index=1)
        actor = Actor.options(scheduling_strategy=second).remote()
        assert ray.get(actor.one.remote(), timeout=12) == 1
    finally:
        _remove(ray, group)


@case("A bundle index that the group does not have raises ValueError")
def bad_bundle_index(ray):
    group = _group(ray, [{"disk": 1}])

    @ray.remote(num_cpus=0, resources={"disk": 1})
    class Actor:
        pass

    try:
        with raises(ValueError):
            Actor.options(
                scheduling_strategy=_in(ray, group, placement_group_bundle_index=3)
            ).remote()
    finally:
        _remove(ray, group)


@case("An actor that asks for more than any bundle has raises ValueError at .remote()")
def too_large_for_the_group(ray):
    group = _group(ray, [{"disk": 1}])

    @ray.remote(num_cpus=0, resources={"disk": 2})
    class Actor:
        pass

    try:
        with raises(ValueError):
            Actor.options(scheduling_strategy=_in(ray, group)).remote()
    finally:
        _remove(ray, group)


@case("remove_placement_group() kills the actors in the group")
def remove_kills(ray):
    group = _group(ray, [{"CPU": 1}])

    @ray.remote(num_cpus=1)
    class Actor:
        def pid(self):
            return os.getpid()

    actor = Actor.options(scheduling_strategy=_in(ray, group)).remote()
    ray.get(actor.pid.remote(), timeout=12)
    _remove(ray, group)

    def dead():
        try:
            ray.get(actor.pid.remote(), timeout=5)
        except ray.exceptions.RayActorError:
            return True
        return False

    wait_until(dead, "the actor's end")


@case("remove_placement_group() twice is no error")
def remove_twice(ray):
    group = _group(ray, [{"disk": 1}])
    ray.get(group.ready(), timeout=12)
    _remove(ray, group)
    _remove(ray, group)


@case("A group that does not fit now waits until there is room")
def waits_for_room(ray):
    first = _group(ray, [{"disk": 4}])
    ray.get(first.ready(), timeout=12)
    second = _group(ray, [{"disk": 4}])
    try:
        assert second.wait(0.5) is False
        _remove(ray, first)
        assert second.wait(15) is True
    finally:
        _remove(ray, second)


@case("A group that can never fit is not ready; wait() says False")
def never_fits(ray):
    group = _group(ray, [{"CPU": 1000}])
    try:
        assert group.wait(0.5) is False
    finally:
        _remove(ray, group)


@case("STRICT_SPREAD needs a node for each bundle: not ready on one node")
def strict_spread(ray):
    group = _group(ray, [{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
    try:
        assert group.wait(0.7) is False
    finally:
        _remove(ray, group)


@case("PACK, SPREAD and STRICT_PACK are ready on one node")
def strategies(ray):
    for strategy in ("PACK", "SPREAD", "STRICT_PACK"):
        group = _group(ray, [{"CPU": 1}, {"CPU": 1}], strategy=strategy)
        try:
            assert group.wait(15) is True, strategy
        finally:
            _remove(ray, group)


@case("An unknown strategy, no bundles and empty bundles raise ValueError")
def bad_groups(ray):
    for bundles, strategy in (
        ([{"CPU": 1}], "NEAR"),
        ([], "PACK"),
        ([{}], "PACK"),
        ([{"CPU": 0}], "PACK"),
    ):
        with raises(ValueError):
            _group(ray, bundles, strategy=strategy)


@case("A named group is found by get_placement_group()")
def named_group(ray):
    util = submodule(ray, "util")
    group = _group(ray, [{"disk": 1}], name="a-named-group")
    try:
        ray.get(group.ready(), timeout=12)
        assert util.get_placement_group("a-named-group").id == group.id
        with raises(ValueError):
            util.get_placement_group("no-such-group")
    finally:
        _remove(ray, group)


@case("placement_group_table() shows state, strategy, name and bundles")
def table(ray):
    util = submodule(ray, "util")
    group = _group(ray, [{"disk": 1}], strategy="SPREAD", name="in-the-table")
    ray.get(group.ready(), timeout=12)
    row = util.placement_group_table(group)
    assert row["state"] == "CREATED"
    assert row["strategy"] == "SPREAD"
    assert row["name"] == "in-the-table"
    assert len(row["bundles"]) == 1
    _remove(ray, group)
    wait_until(lambda: util.placement_group_table(group)["state"] == "REMOVED", "REMOVED")


@case("placement_group_table() has statistics of how a group was placed")
def table_statistics(ray):
    util = submodule(ray, "util")
    group = _group(ray, [{"CPU": 1}])
    try:
        ray.get(group.ready(), timeout=12)
        stats = util.placement_group_table(group)["stats"]
        assert set(stats) == {
            "end_to_end_creation_latency_ms",
            "scheduling_latency_ms",
            "scheduling_attempt",
            "highest_retry_delay_ms",
            "scheduling_state",
        }
        assert stats["scheduling_state"] == "FINISHED"
        assert stats["scheduling_attempt"] >= 1
        assert stats["end_to_end_creation_latency_ms"] >= stats["scheduling_latency_ms"] >= 0
    finally:
        _remove(ray, group)


@case("The table of a group that found no room says so")
def table_of_a_waiting_group(ray):
    util = submodule(ray, "util")
    first = _group(ray, [{"disk": 4}])
    second = None
    try:
        ray.get(first.ready(), timeout=12)
        second = _group(ray, [{"disk": 4}])

        def stats():
            return util.placement_group_table(second)["stats"]

        wait_until(lambda: stats()["scheduling_state"] == "NO_RESOURCES", "NO_RESOURCES")
        assert stats()["scheduling_attempt"] >= 1
    finally:
        _remove(ray, first)
        if second is not None:
            _remove(ray, second)


@case("A group's handle travels to tasks and actors, which schedule in it")
def group_travels(ray):
    group = _group(ray, [{"CPU": 2}])

    @ray.remote(num_cpus=1)
    def inner():
        return ray.get_runtime_context().get_placement_group_id()

    @ray.remote(num_cpus=1)
    def outer(group):
        return ray.get(inner.options(scheduling_strategy=_in(ray, group)).remote())

    try:
        assert ray.get(outer.remote(group), timeout=14) == group.id.hex()
    finally:
        _remove(ray, group)


@case("get_current_placement_group() is the group in which the caller runs, else None")
def current_group(ray):
    util = submodule(ray, "util")
    assert util.get_current_placement_group() is None
    group = _group(ray, [{"CPU": 1}])

    @ray.remote(num_cpus=1)
    def ask():
        return submodule(ray, "util").get_current_placement_group().id.hex()

    try:
        got = ray.get(ask.options(scheduling_strategy=_in(ray, group)).remote(), timeout=12)
        assert got == group.id.hex()
    finally:
        _remove(ray, group)


@case("placement_group_capture_child_tasks puts the children into the group too")
def captured_children(ray):
    group = _group(ray, [{"CPU": 2}])

    @ray.remote(num_cpus=1)
    def child():
        return ray.get_runtime_context().get_placement_group_id()

    @ray.remote(num_cpus=1)
    def parent():
        return ray.get(child.remote())

    def run(**options):
        return ray.get(
            parent.options(scheduling_strategy=_in(ray, group, **options)).remote(), timeout=18
        )

    try:
        assert run(placement_group_capture_child_tasks=True) == group.id.hex()
        assert run() is None
    finally:
        _remove(ray, group)


@case("A group's GPUs are those of the actors in it")
def gpus_of_a_group(ray):
    group = _group(ray, [{"GPU": 1}, {"GPU": 1}])

    @ray.remote(num_cpus=0, num_gpus=1)
    class Actor:
        def gpus(self):
            return ray.get_gpu_ids()

    try:
        actors = [
            Actor.options(
                scheduling_strategy=_in(ray, group, placement_group_bundle_index=i)
            ).remote()
            for i in range(2)
        ]
        got = ray.get([a.gpus.remote() for a in actors], timeout=14)
        assert [len(ids) for ids in got] == [1, 1]
        assert got[0] != got[1]
    finally:
        _remove(ray, group)


@case("NodeAffinitySchedulingStrategy runs an actor on the node with that id")
def node_affinity(ray):
    strategies = submodule(ray, "util.scheduling_strategies")
    node_id = ray.nodes()[0]["NodeID"]
    here = strategies.NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)

    @ray.remote
    class Actor:
        def where(self):
            return ray.get_runtime_context().get_node_id()

    actor = Actor.options(scheduling_strategy=here).remote()
    assert ray.get(actor.where.remote(), timeout=12) == node_id


@case("A task with hard affinity to a node that is not there fails with TaskUnschedulableError")
def node_affinity_hard(ray):
    strategies = submodule(ray, "util.scheduling_strategies")
    nowhere = strategies.NodeAffinitySchedulingStrategy(node_id="0" * 56, soft=False)

    @ray.remote
    def work():
        return 1

    with raises(ray.exceptions.TaskUnschedulableError):
        ray.get(work.options(scheduling_strategy=nowhere).remote(), timeout=12)


@case("An actor with hard affinity to a node that is not there: ActorUnschedulableError")
def node_affinity_hard_actor(ray):
    strategies = submodule(ray, "util.scheduling_strategies")
    nowhere = strategies.NodeAffinitySchedulingStrategy(node_id="0" * 56, soft=False)

    @ray.remote
    class Actor:
        def one(self):
            return 1

    with raises(ray.exceptions.ActorUnschedulableError):
        actor = Actor.options(scheduling_strategy=nowhere).remote()
        ray.get(actor.one.remote(), timeout=12)


@case("Soft affinity to a node that is not there runs elsewhere")
def node_affinity_soft(ray):
    strategies = submodule(ray, "util.scheduling_strategies")
    anywhere = strategies.NodeAffinitySchedulingStrategy(node_id="0" * 56, soft=True)

    @ray.remote
    def work():
        return 1

    assert ray.get(work.options(scheduling_strategy=anywhere).remote(), timeout=12) == 1


@case("'DEFAULT' and 'SPREAD' are strategies of actors and tasks")
def named_strategies(ray):
    @ray.remote
    class Actor:
        def one(self):
            return 1

    @ray.remote
    def one():
        return 1

    for strategy in ("DEFAULT", "SPREAD"):
        actor = Actor.options(scheduling_strategy=strategy).remote()
        refs = [actor.one.remote(), one.options(scheduling_strategy=strategy).remote()]
        assert ray.get(refs, timeout=12) == [1, 1]


@case("label_selector with a label of the node runs; its default labels have the node's id")
def label_selector(ray):
    node_id = ray.nodes()[0]["NodeID"]

    @ray.remote
    class Actor:
        def one(self):
            return 1

    here = Actor.options(label_selector={"ray.io/node-id": node_id}).remote()
    assert ray.get(here.one.remote(), timeout=12) == 1


@case(
    "An actor with a label_selector that no node meets is not run",
    better="It raises at .remote(), and names the labels; in Ray it waits for ever.",
)
def label_selector_of_none(ray):
    nowhere = _coloured(ray).remote()
    assert ray.wait([nowhere.one.remote()], timeout=1)[0] == []
    ray.kill(nowhere)


@label_selector_of_none.ours
def label_selector_of_none_raises(ray):
    with raises(ValueError, match="colour"):
        _coloured(ray).remote()


def _coloured(ray):
    @ray.remote(label_selector={"colour": "none-has-this"})
    class Actor:
        def one(self):
            return 1

    return Actor
