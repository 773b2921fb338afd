"""Placement groups: where bundles lie, what runs in them, who waits, and how they end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import redis

from celery_actors.control import (
    CallerGone,
    GroupNameTaken,
    GroupRemoved,
    LabelRule,
    Target,
)
from celery_actors.control.states import GROUP_TRANSITIONS

from .cluster import ONE, Cluster, ids


def state(cluster: Cluster, group_id: str) -> str:
    return cluster.group_record(group_id).state


# Where bundles lie


def test_pack_takes_one_node_where_one_will_do(cluster: Cluster) -> None:
    for name, cpus in (("a", 2), ("b", 4), ("c", 3)):
        cluster.node(name, CPU=cpus)
    assert cluster.group_nodes(cluster.group(*[{"CPU": 1}] * 3)) == ["b"] * 3, "the emptiest"
    assert sorted(cluster.group_nodes(cluster.group(*[{"CPU": 2}] * 2))) == ["a", "c"]


def test_pack_takes_as_few_nodes_as_it_can(cluster: Cluster) -> None:
    for name, cpus in (("a", 1), ("b", 3), ("c", 1), ("d", 2)):
        cluster.node(name, CPU=cpus)
    nodes = cluster.group_nodes(cluster.group(*[{"CPU": 1}] * 5))
    assert sorted(nodes) == list("bbbdd")


def test_strict_pack_is_on_one_node_or_waits(cluster: Cluster) -> None:
    cluster.node("a", CPU=2)
    cluster.node("b", CPU=3)
    assert cluster.group_nodes(cluster.group(*[{"CPU": 1}] * 3, strategy="STRICT_PACK")) == [
        "b",
        "b",
        "b",
    ]
    waits = cluster.group(*[{"CPU": 1}] * 3, strategy="STRICT_PACK")
    assert state(cluster, waits) == "PENDING"
    assert cluster.group_record(waits).node_ids == (None, None, None)
    assert cluster.group_record(waits).placed_at is None
    cluster.node("c", CPU=3)
    assert cluster.group_nodes(waits) == ["c"] * 3


def test_attempts_to_place_a_group_are_counted(cluster: Cluster) -> None:
    cluster.node("a", CPU=1)
    groups = [cluster.group({"CPU": 2}, strategy="STRICT_PACK") for _ in range(2)]
    tried, behind = [cluster.group_record(group).attempts for group in groups]
    assert tried >= 1
    assert behind == 0, "its turn has not come"
    cluster.node("b", CPU=2)
    assert cluster.group_record(groups[0]).attempts == tried + 1
    cluster.node("c", CPU=2)
    assert cluster.group_nodes(groups[1]) == ["c"]


def test_spread_uses_as_many_nodes_as_there_are(cluster: Cluster) -> None:
    cluster.node("a", CPU=4)
    cluster.node("b", CPU=4)
    nodes = cluster.group_nodes(cluster.group(*[{"CPU": 1}] * 4, strategy="SPREAD"))
    assert sorted(nodes) == list("aabb")


def test_spread_finds_the_layout_on_different_nodes(cluster: Cluster) -> None:
    cluster.node("a", CPU=1, gpus=(0,))
    cluster.node("b", CPU=1)
    group = cluster.group({"CPU": 0.5}, {"CPU": 0.5, "GPU": 1}, strategy="SPREAD")
    assert cluster.group_nodes(group) == ["b", "a"]


def test_spread_goes_back_on_a_choice_that_leaves_a_node_out(cluster: Cluster) -> None:
    cluster.node("a", CPU=4, left=8)
    cluster.node("b", CPU=8, left=8, right=8)
    cluster.node("c", CPU=4, right=8)
    one = {"CPU": 1, "left": 1}
    group = cluster.group({"CPU": 2, "right": 1}, one, one, strategy="SPREAD")
    assert sorted(cluster.group_nodes(group)) == ["a", "b", "c"]


def test_strict_spread_is_on_different_nodes_or_waits(cluster: Cluster) -> None:
    cluster.node("a", CPU=4)
    cluster.node("b", CPU=1)
    group = cluster.group({"CPU": 1}, {"CPU": 2}, strategy="STRICT_SPREAD")
    assert cluster.group_nodes(group) == ["b", "a"]
    waits = cluster.group(*[{"CPU": 0.5}] * 3, strategy="STRICT_SPREAD")
    assert state(cluster, waits) == "PENDING"
    cluster.node("c", CPU=1)
    assert state(cluster, waits) == "PENDING", "b is full"
    cluster.node("d", CPU=1)
    assert sorted(cluster.group_nodes(waits)) == list("acd")


def test_all_bundles_or_none(cluster: Cluster) -> None:
    cluster.node("a", CPU=3, gpus=(0,))
    group = cluster.group({"CPU": 2}, {"CPU": 2})
    assert state(cluster, group) == "PENDING"
    assert cluster.available("a") == {"CPU": 3 * ONE, "GPU": ONE}
    assert cluster.all_keys().isdisjoint({f"ca:group:{group}:0", f"ca:group:{group}:1"})


def test_a_layout_is_found_where_the_first_choice_does_not_lead_to_one(cluster: Cluster) -> None:
    cluster.node("a", CPU=4, gpus=(0,))
    cluster.node("b", CPU=6)
    group = cluster.group({"CPU": 2, "GPU": 1}, {"CPU": 4}, {"CPU": 2}, {"CPU": 2})
    assert cluster.group_nodes(group)[0] == "a"
    assert cluster.available("a")["CPU"] == cluster.available("b")["CPU"] == 0


def test_labels_of_bundles(cluster: Cluster) -> None:
    cluster.node("a", labels={"zone": "x"}, CPU=4)
    cluster.node("b", labels={"zone": "y"}, CPU=4)
    rules = tuple((LabelRule("zone", "in", (zone,)),) for zone in "yx")
    assert cluster.group_nodes(cluster.group({"CPU": 1}, {"CPU": 1}, labels=rules)) == ["b", "a"]
    nowhere = ((LabelRule("zone", "in", ("z",)),),)
    assert state(cluster, cluster.group({"CPU": 1}, labels=nowhere)) == "PENDING"
    assert cluster.state(cluster.actor(CPU=3)) == "PLACED", "it is in nobody's way"


# GPUs


def test_bundles_have_gpus_of_their_own(cluster: Cluster) -> None:
    cluster.node("a", gpus=(0, 1, 2, 3), CPU=4)
    group = cluster.group({"GPU": 2, "CPU": 1}, {"GPU": 1})
    others = [cluster.actor(GPU=1), cluster.actor(GPU=1)]
    assert cluster.state(others[1]) == "PENDING"
    (outside,) = cluster.record(others[0]).gpu_ids
    first = [cluster.record(cluster.member(group, 0, GPU=1)).gpu_ids for _ in range(2)]
    second = cluster.record(cluster.member(group, 1, GPU=1)).gpu_ids
    assert sorted([outside, *sum(first, ()), *second]) == [0, 1, 2, 3]
    assert cluster.available("a") == {"CPU": 3 * ONE, "GPU": 0}


def test_a_bundle_with_a_part_of_a_gpu_gives_only_that(cluster: Cluster) -> None:
    cluster.node("a", gpus=(0,))
    group = cluster.group({"GPU": 0.5})
    assert cluster.record(cluster.actor(GPU=0.5)).gpu_ids == (0,)
    member = cluster.member(group, GPU=0.3)
    assert cluster.record(member).gpu_ids == (0,)
    waits = cluster.member(group, GPU=0.3)
    assert cluster.state(waits) == "PENDING"
    assert ids(cluster.reap(cluster.run(member))) == [waits]
    assert cluster.record(cluster.member(group, GPU=0.2)).gpu_ids == (0,)
    (node,) = cluster.control.nodes()
    assert node.gpu_used == {0: ONE}
    cluster.control.remove_group(group, "test")
    (node,) = cluster.control.nodes()
    assert node.gpu_used == {0: 5000}


# What runs in bundles


def test_members_take_from_the_bundle_and_nothing_else(cluster: Cluster) -> None:
    cluster.node("a", CPU=4)
    group = cluster.group({"CPU": 2})
    assert cluster.available("a") == {"CPU": 2 * ONE}
    members = [cluster.member(group, CPU=1) for _ in range(3)]
    assert [cluster.state(member) for member in members] == ["PLACED", "PLACED", "PENDING"]
    assert cluster.available("a") == {"CPU": 2 * ONE}, "there would be room outside"
    assert cluster.state(cluster.actor(CPU=2)) == "PLACED", "and who waits inside keeps none of it"
    assert ids(cluster.reap(cluster.run(members[0]))) == members[2:]


def test_a_bundle_that_is_named_is_waited_for(cluster: Cluster) -> None:
    cluster.node("a", CPU=4)
    group = cluster.group({"CPU": 1}, {"CPU": 1}, strategy="STRICT_PACK")
    first = cluster.member(group, 1, CPU=1)
    second = cluster.member(group, 1, CPU=1)
    assert cluster.state(second) == "PENDING"
    assert cluster.state(cluster.member(group, 0, CPU=1)) == "PLACED", "another is free"
    assert ids(cluster.reap(cluster.run(first))) == [second]


def test_any_bundle_is_the_one_that_wastes_least(cluster: Cluster) -> None:
    cluster.node("a", CPU=8, gpus=(0,))
    group = cluster.group({"CPU": 1, "GPU": 1}, {"CPU": 4}, {"CPU": 1})
    for _ in range(2):
        cluster.member(group, CPU=1)
    assert cluster.state(cluster.member(group, 0, CPU=1, GPU=1)) == "PLACED"
    assert cluster.state(cluster.member(group, CPU=3)) == "PLACED"
    assert cluster.state(cluster.member(group, CPU=1)) == "PENDING"


def test_members_wait_for_their_group(cluster: Cluster) -> None:
    node = cluster.node("a", CPU=1)
    running = cluster.run(cluster.actor(CPU=1))
    group = cluster.group({"CPU": 1})
    member = cluster.member(group, CPU=1)
    nothing = cluster.member(group)
    assert [cluster.state(member), cluster.state(nothing)] == ["PENDING"] * 2
    assert set(ids(cluster.reap(running))) == {member, nothing}
    assert cluster.record(nothing).node_id == node


def test_a_member_that_waits_in_get_gives_its_cpu_to_the_bundle(cluster: Cluster) -> None:
    cluster.node("a", CPU=2)
    group = cluster.group({"CPU": 1})
    outer = cluster.run(cluster.member(group, CPU=1))
    inner = cluster.member(group, CPU=1)
    assert ids(cluster.control.block(outer.actor_id, outer.incarnation)) == [inner]
    assert cluster.available("a") == {"CPU": ONE}
    cluster.control.unblock(outer.actor_id, outer.incarnation)
    cluster.control.remove_group(group, "test")
    assert cluster.available("a") == {"CPU": ONE}, "inner never began, outer is not reaped"
    cluster.reap(outer)
    assert cluster.available("a") == {"CPU": 2 * ONE}


def test_an_unstarted_member_is_placed_anew_in_its_group(cluster: Cluster) -> None:
    cluster.node("a", CPU=1)
    cluster.node("b", CPU=1)
    group = cluster.group({"CPU": 1}, {"CPU": 1}, strategy="STRICT_SPREAD")
    member = cluster.member(group, CPU=1)
    first = cluster.node_name(member)
    assert ids(cluster.sweep()) == [member]
    assert cluster.node_name(member) != first


# Who waits


def test_a_waiting_group_is_not_overtaken(cluster: Cluster) -> None:
    cluster.node("a", CPU=2)
    running = cluster.run(cluster.actor(CPU=1))
    group = cluster.group({"CPU": 1}, {"CPU": 1})
    later = cluster.actor(CPU=1)
    assert cluster.state(later) == "PENDING", "it would starve the group"
    assert cluster.reap(running) == ()
    assert state(cluster, group) == "CREATED"
    cluster.control.remove_group(group, "test")
    assert cluster.state(later) == "PLACED"


def test_a_waiting_actor_is_not_overtaken_by_a_group(cluster: Cluster) -> None:
    cluster.node("a", CPU=2)
    running = cluster.run(cluster.actor(CPU=1))
    large = cluster.actor(CPU=2)
    group = cluster.group({"CPU": 1})
    assert state(cluster, group) == "PENDING"
    assert ids(cluster.reap(running)) == [large]
    cluster.reap(cluster.run(large))
    assert state(cluster, group) == "CREATED"


def test_a_group_too_large_for_the_nodes_waits_in_nobodys_way(cluster: Cluster) -> None:
    cluster.node("a", CPU=2)
    cluster.node("b", CPU=2)
    groups = [
        cluster.group({"CPU": 3}),
        cluster.group({"robot": 1}),
        cluster.group({"CPU": 1}, {"CPU": 1}, {"CPU": 1}, strategy="STRICT_SPREAD"),
        cluster.group({"CPU": 2}, {"CPU": 1}, strategy="STRICT_PACK"),
        cluster.group(*[{"CPU": 1}] * 5),
    ]
    assert [state(cluster, group) for group in groups] == ["PENDING"] * 5
    assert cluster.control.waiting() == 5
    for _ in range(4):
        assert cluster.state(cluster.actor(CPU=1)) == "PLACED"
    cluster.node("c", CPU=3)
    assert state(cluster, groups[0]) == "CREATED"


def test_what_waits_for_the_end_of_a_group_keeps_nothing_for_itself(cluster: Cluster) -> None:
    cluster.node("a", CPU=3)
    first = cluster.group({"CPU": 2})
    second = cluster.group({"CPU": 2})
    actor = cluster.actor(CPU=3)
    assert [state(cluster, second), cluster.state(actor)] == ["PENDING", "PENDING"]
    small = cluster.actor(CPU=1)
    assert cluster.state(small) == "PLACED", "the group may last for ever"
    cluster.control.remove_group(first, "test")
    assert state(cluster, second) == "CREATED", "now it has its turn"
    cluster.control.remove_group(second, "test")
    assert cluster.state(cluster.actor(CPU=1)) == "PENDING", "kept for the one of three CPUs"


def test_scattered_gpus_that_groups_keep_are_waited_for_by_nobody(cluster: Cluster) -> None:
    cluster.node("a", gpus=(0, 1))
    halves = [cluster.group({"GPU": 0.6}) for _ in range(2)]
    whole = cluster.actor(GPU=1)
    assert cluster.state(whole) == "PENDING"
    assert cluster.state(cluster.actor(GPU=0.4)) == "PLACED"
    cluster.control.remove_group(halves[0], "test")
    assert cluster.state(cluster.actor(GPU=0.4)) == "PENDING", "now it will have one some day"
    cluster.control.remove_group(halves[1], "test")
    assert cluster.state(whole) == "PLACED"


def test_equal_groups_wait_in_one_line(cluster: Cluster) -> None:
    cluster.node("a", CPU=1)
    first, *others = (cluster.group({"CPU": 1}) for _ in range(4))
    assert cluster.client.scard("ca:shapes") == 1
    assert cluster.control.waiting() == 3
    cluster.control.remove_group(first, "test")
    assert [state(cluster, group) for group in others] == ["CREATED", "PENDING", "PENDING"]
    cluster.control.remove_group(others[1], "test")
    assert cluster.control.waiting() == 1


# How they end


def test_removing_a_group_ends_what_runs_in_it(cluster: Cluster) -> None:
    cluster.node("a", CPU=4, gpus=(0, 1))
    group = cluster.group({"CPU": 2, "GPU": 1}, {"CPU": 1}, {"GPU": 1})
    begun = cluster.run(cluster.member(group, 0, CPU=1, GPU=0.5))
    unstarted = cluster.member(group, 1, CPU=1)
    waiting = cluster.member(group, 1, CPU=1)
    outside = cluster.run(cluster.actor())
    removal = cluster.control.remove_group(group, "the group was removed")
    assert [p.incarnation for p in removal.stop] == [begun.incarnation]
    assert set(removal.cancelled) == {unstarted, waiting}
    for member in (begun.actor_id, unstarted, waiting):
        assert cluster.state(member) == "DEAD"
        assert cluster.record(member).cause == "the group was removed"
    assert cluster.state(outside.actor_id) == "ALIVE"
    assert cluster.available("a") == {"CPU": 3 * ONE, "GPU": 2 * ONE - 5000}, "not reaped yet"
    cluster.reap(begun)
    assert cluster.available("a") == {"CPU": 4 * ONE, "GPU": 2 * ONE}
    assert cluster.control.nodes()[0].free_gpus == (0, 1)
    assert state(cluster, group) == "REMOVED"
    assert cluster.group_record(group).node_ids == (None, None, None)
    assert cluster.control.remove_group(group, "again") == type(removal)()


def test_removing_places_what_waited(cluster: Cluster) -> None:
    cluster.node("a", CPU=2)
    group = cluster.group({"CPU": 2})
    actor = cluster.actor(CPU=2)
    assert ids(cluster.control.remove_group(group, "test").placements) == [actor]


def test_nothing_can_be_created_in_a_group_that_is_no_more(cluster: Cluster) -> None:
    cluster.node("a", CPU=2)
    group = cluster.group({"CPU": 1})
    cluster.control.remove_group(group, "test")
    for group_id in (group, "f" * 32):
        with pytest.raises(GroupRemoved, match=f"placement group {group_id} was removed"):
            cluster.member(group_id)
    assert cluster.control.remove_group("f" * 32, "test").stop == ()
    assert cluster.control.group("f" * 32) is None


def test_a_pending_group_can_be_removed(cluster: Cluster) -> None:
    group = cluster.group({"CPU": 1})
    member = cluster.member(group, CPU=1)
    removal = cluster.control.remove_group(group, "test")
    assert removal.cancelled == (member,)
    assert cluster.control.waiting() == 0
    assert "ca:shapes" not in cluster.all_keys()


def test_groups_end_with_their_job_but_detached_ones(cluster: Cluster) -> None:
    cluster.node("a", CPU=4)
    group, stays = cluster.group({"CPU": 1}), cluster.group({"CPU": 1}, detached=True)
    waiting = cluster.group({"CPU": 100})
    member = cluster.member(stays, CPU=1, detached=True)
    placement = cluster.run(member)
    begun = cluster.run(cluster.member(group, CPU=1))
    ended = cluster.control.end_caller(cluster.driver)
    assert [p.actor_id for p in ended.stop] == [begun.actor_id]
    assert [state(cluster, g) for g in (group, waiting, stays)] == ["REMOVED"] * 2 + ["CREATED"]
    assert cluster.state(member) == "ALIVE"
    cluster.reap(begun)
    cluster.control.forget_job(cluster.job)
    assert [record.group_id for record in cluster.control.groups()] == [stays]
    cluster.reap(placement)
    cluster.control.remove_group(stays, "test")
    assert cluster.control.groups() == [], "its job is forgotten, and so is it"
    assert cluster.available("a") == {"CPU": 4 * ONE}


def test_a_group_that_a_detached_actor_made_ends_with_its_process(cluster: Cluster) -> None:
    node = cluster.node("a", CPU=4)
    actor = cluster.run(cluster.actor(detached=True)).actor_id
    process = cluster.caller(node)
    group = cluster.group({"CPU": 1}, caller=process, creator_actor=actor)
    cluster.control.end_caller(cluster.driver)
    assert state(cluster, group) == "CREATED"
    late = cluster.group({"CPU": 1}, caller=process, creator_actor=actor)
    cluster.control.end_caller(process)
    assert [state(cluster, group), state(cluster, late)] == ["REMOVED"] * 2
    assert cluster.available("a") == {"CPU": 4 * ONE}


def test_a_group_that_a_job_s_own_actor_made_ends_with_the_job(cluster: Cluster) -> None:
    node = cluster.node("a", CPU=4)
    actor = cluster.run(cluster.actor()).actor_id
    process = cluster.caller(node)
    group = cluster.group({"CPU": 1}, caller=process, creator_actor=actor)
    cluster.control.end_caller(process)
    assert state(cluster, group) == "CREATED", "as Ray's: its job goes on"
    cluster.control.end_caller(cluster.driver)
    assert state(cluster, group) == "REMOVED"


def test_the_records_of_groups_leave_nothing(cluster: Cluster, client: redis.Redis) -> None:
    node = cluster.node("a", CPU=4)
    group = cluster.group({"CPU": 1}, {"CPU": 1}, name="g", namespace="n")
    cluster.group({"CPU": 100})
    cluster.member(group, CPU=1)
    cluster.control.remove_group(group, "test")
    assert client.pttl(f"ca:group:{group}") > 0, "readable for a while"
    cluster.group({"CPU": 1}, detached=True)
    cluster.control.end_caller(cluster.driver)
    for record in cluster.control.groups():
        cluster.control.remove_group(record.group_id, "detached ones too")
    cluster.control.remove_node(node, "left")
    cluster.control.forget_job(cluster.job)
    assert cluster.all_keys() == set()


# Names


def test_names_are_unique_in_their_namespace(cluster: Cluster) -> None:
    cluster.node("a", CPU=4)
    group = cluster.group({"CPU": 1}, name="training", namespace="n")
    other = cluster.group({"CPU": 1}, name="training", namespace="m")
    with pytest.raises(GroupNameTaken, match=f"'training' already \\({group}\\)"):
        cluster.group({"CPU": 1}, name="training", namespace="n")
    assert cluster.available("a") == {"CPU": 2 * ONE}
    assert cluster.control.named_group("n", "training") == group
    assert cluster.control.named_group("m", "training") == other
    assert cluster.control.named_group("n", "other") is None
    record = cluster.group_record(group)
    assert (record.name, record.namespace, record.detached) == ("training", "n", False)
    cluster.control.remove_group(group, "test")
    assert cluster.control.named_group("n", "training") is None
    cluster.group({"CPU": 1}, name="training", namespace="n")


def test_only_a_living_caller_creates(cluster: Cluster) -> None:
    with pytest.raises(CallerGone):
        cluster.group({"CPU": 1}, caller="f" * 16)


# Restarts, and what is created without its arguments


def test_a_member_is_begun_again_in_its_group(cluster: Cluster) -> None:
    lost = cluster.node("a", CPU=1)
    cluster.node("b", CPU=4)
    group = cluster.group({"CPU": 1}, {"CPU": 1}, strategy="STRICT_SPREAD")
    at_a = cluster.group_nodes(group).index("a")
    spec = cluster.spec(CPU=1, target=Target(group=group, bundle=at_a))
    cluster.create(replace(spec, max_restarts=-1))
    assert ids(cluster.reap(cluster.run(spec.actor_id))) == [spec.actor_id]
    assert cluster.node_name(spec.actor_id) == "a"
    cluster.run(spec.actor_id)
    cluster.control.remove_node(lost, "lost")
    assert cluster.state(spec.actor_id) == "PENDING", "there is room at b, but not in its bundle"
    cluster.node("c", CPU=1)
    assert cluster.node_name(spec.actor_id) == "c"
    placement = cluster.run(spec.actor_id)
    cluster.control.remove_group(group, "removed")
    cluster.reap(placement)
    assert cluster.state(spec.actor_id) == "DEAD", "for good"
    assert cluster.available("c") == {"CPU": ONE}


def test_an_actor_whose_group_went_before_its_arguments_came(cluster: Cluster) -> None:
    cluster.node("a", CPU=1)
    group = cluster.group({"CPU": 1})
    spec = cluster.spec(CPU=1, target=Target(group=group))
    cluster.create(replace(spec, blob=None))
    cluster.control.remove_group(group, "removed")
    with pytest.raises(GroupRemoved):
        cluster.control.provide(spec.actor_id, b"blob")
    assert cluster.control.kill(spec.actor_id, "its group is gone").was_pending
    assert cluster.control.waiting() == 0


# Lost nodes


def test_a_lost_bundle_is_laid_out_anew(cluster: Cluster) -> None:
    lost = cluster.node("a", CPU=2)
    cluster.node("b", CPU=2)
    group = cluster.group({"CPU": 2}, {"CPU": 2}, strategy="STRICT_SPREAD")
    at_a = cluster.group_nodes(group).index("a")
    running = cluster.run(cluster.member(group, 1 - at_a, CPU=1))
    lost_too = cluster.run(cluster.member(group, at_a, CPU=1))
    unstarted = cluster.member(group, at_a, CPU=1)
    before = cluster.actor(CPU=2)
    removal = cluster.control.remove_node(lost, "lost")
    assert removal.dead == (lost_too.actor_id,)
    assert state(cluster, group) == "RESCHEDULING"
    assert cluster.group_nodes(group).count("") == 1
    assert cluster.state(running.actor_id) == "ALIVE"
    assert cluster.state(unstarted) == "PENDING"
    assert cluster.state(cluster.member(group, 1 - at_a, CPU=1)) == "PLACED", "goes on there"
    cluster.node("c", CPU=2)
    assert state(cluster, group) == "CREATED", "before all others that wait"
    assert cluster.group_nodes(group)[at_a] == "c"
    assert cluster.node_name(unstarted) == "c"
    assert cluster.state(before) == "PENDING"
    cluster.control.remove_group(group, "test")
    assert cluster.node_name(before) == "c"


def test_a_group_that_loses_its_last_node_waits_for_another(cluster: Cluster) -> None:
    lost = cluster.node("a", CPU=2)
    group = cluster.group({"CPU": 1}, {"CPU": 1}, strategy="STRICT_PACK")
    cluster.control.remove_node(lost, "lost")
    assert state(cluster, group) == "RESCHEDULING"
    cluster.node("b", CPU=1)
    assert state(cluster, group) == "RESCHEDULING"
    cluster.control.remove_node(cluster.node("c", CPU=2), "lost")
    cluster.node("d", CPU=2)
    assert cluster.group_nodes(group) == ["d", "d"]


def test_a_group_that_waits_for_lost_bundles_can_be_removed(cluster: Cluster) -> None:
    lost = cluster.node("a", CPU=1)
    cluster.node("b", CPU=1)
    group = cluster.group({"CPU": 1}, {"CPU": 1})
    cluster.control.remove_node(lost, "lost")
    assert state(cluster, group) == "RESCHEDULING"
    cluster.control.remove_group(group, "test")
    assert cluster.available("b") == {"CPU": ONE}
    assert cluster.control.waiting() == 0


def test_a_node_whose_lease_ended_takes_no_bundle_and_no_member(cluster: Cluster) -> None:
    node = cluster.node("a", CPU=2)
    group = cluster.group({"CPU": 1})
    cluster.client.zadd("ca:nodes", {node: 1})
    assert state(cluster, cluster.group({"CPU": 1})) == "PENDING"
    member = cluster.member(group, CPU=1)
    assert cluster.state(member) == "PENDING"
    cluster.control.renew_node(node, 60)
    cluster.actor()
    assert cluster.state(member) == "PLACED"


# States


def test_the_table_has_all_states_and_all_end_removed() -> None:
    assert set(GROUP_TRANSITIONS) == {"PENDING", "CREATED", "RESCHEDULING", "REMOVED"}
    assert all("REMOVED" in after for s, after in GROUP_TRANSITIONS.items() if s != "REMOVED")
    assert GROUP_TRANSITIONS["REMOVED"] == frozenset()


def test_scripts_are_held_to_the_table(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    from celery_actors.control import scripts

    table = {**GROUP_TRANSITIONS, "PENDING": frozenset({"REMOVED"})}
    monkeypatch.setattr(scripts, "GROUP_TRANSITIONS", table)
    scripts._load.cache_clear()
    try:
        cluster.node("a", CPU=1)
        with pytest.raises(redis.ResponseError, match="PENDING -> CREATED is not in the table"):
            cluster.group({"CPU": 1})
    finally:
        scripts._load.cache_clear()


def test_changes_are_published(
    cluster: Cluster, heard: Callable[[], list[tuple[str, str]]]
) -> None:
    group = cluster.group({"CPU": 1})
    assert ("ca:cluster", "R") in heard(), "somebody waits: idle executors are returned"
    node = cluster.node("a", CPU=1)
    assert ("ca:cluster", f"P{group}") in heard()
    cluster.control.remove_node(node, "lost")
    assert ("ca:cluster", f"P{group}") in heard()
    cluster.control.remove_group(group, "test")
    assert ("ca:cluster", f"P{group}") in heard()


def test_members_of_equal_wishes_share_a_line(cluster: Cluster) -> None:
    group = cluster.group({"CPU": 1})
    for _ in range(3):
        cluster.member(group, CPU=1)
    cluster.actor(target=Target(group=group, bundle=0), CPU=1)
    assert cluster.client.scard("ca:shapes") == 3
