"""Callers and jobs: leases, what ends with whom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from celery_actors.control import CallerGone

from .cluster import ONE, Cluster, ids


def test_a_caller_lives_while_it_renews(cluster: Cluster) -> None:
    caller = cluster.caller()
    assert cluster.control.caller_alive(caller)
    assert cluster.control.renew_caller(caller, 60)
    assert cluster.control.expired().callers == ()
    cluster.client.zadd("ca:callers", {caller: 1})
    assert cluster.control.expired().callers == (caller,)
    cluster.control.end_caller(caller)
    assert not cluster.control.caller_alive(caller)
    assert not cluster.control.renew_caller(caller, 60)
    assert cluster.control.expired().callers == ()


def test_a_nodes_process_has_no_lease_of_its_own(cluster: Cluster) -> None:
    caller = cluster.caller(cluster.node("n1", CPU=1))
    assert cluster.client.zscore("ca:callers", caller) is None
    with pytest.raises(ValueError, match="lease"):
        cluster.control.register_caller(cluster.short_id(), cluster.job, lease=None, node_id=None)


def test_only_registered_callers_create(cluster: Cluster) -> None:
    with pytest.raises(CallerGone):
        cluster.actor(caller=cluster.short_id())
    assert cluster.control.actors() == []


def test_the_end_of_a_caller_stops_what_only_it_held(
    cluster: Cluster, heard: Callable[[], list[tuple[str, str]]]
) -> None:
    cluster.node("n1", CPU=2)
    caller = cluster.caller()
    mine = cluster.run(cluster.actor(caller=caller)).actor_id
    shared = cluster.run(cluster.actor(caller=caller)).actor_id
    cluster.control.hold(shared, f"{cluster.driver}/p")
    detached = cluster.run(cluster.actor(caller=caller, detached=True)).actor_id
    stored = cluster.run(cluster.actor()).actor_id
    cluster.control.move_hold(stored, f"{cluster.driver}/p", f"{caller}/o5.0")
    starting = cluster.actor(caller=caller)
    cluster.begin(starting)
    placed = cluster.actor(caller=caller, CPU=2)
    pending = cluster.actor(caller=caller, CPU=1)
    other = cluster.actor(CPU=2)
    heard()
    ended = cluster.control.end_caller(caller)
    assert set(ended.stopping) == {mine, stored, starting}
    assert set(ended.cancelled) == {placed, pending}
    assert ended.stop == ()
    assert ids(ended.placements) == [other]
    assert cluster.state(mine) == cluster.state(stored) == "STOPPING"
    assert cluster.state(starting) == "STARTING"
    assert cluster.record(starting).stopping
    assert cluster.state(shared) == cluster.state(detached) == "ALIVE"
    assert cluster.control.holds(shared) == {f"{cluster.driver}/p"}
    assert ("ca:cluster", f"C{caller}") in heard()

    again = cluster.control.end_caller(caller)
    assert again == type(again)()
    assert heard() == []
    assert cluster.control.lingering_callers() == []
    assert not {key for key in cluster.all_keys() if caller in key}


def test_an_actor_whose_arguments_will_never_come_is_dead(cluster: Cluster) -> None:
    """Others may have handles to it, and wait."""
    creator, other = cluster.caller(), cluster.caller()
    spec = replace(cluster.spec(caller=creator), blob=None)
    cluster.create(spec)
    assert cluster.control.hold(spec.actor_id, f"{other}/p1")
    ended = cluster.control.end_caller(creator)
    assert ended.cancelled == (spec.actor_id,)
    assert cluster.state(spec.actor_id) == "DEAD"
    assert "its creator ended" in (cluster.record(spec.actor_id).cause or "")


def test_what_is_inside_a_value_stays_while_others_keep_the_value(cluster: Cluster) -> None:
    owner, other = cluster.caller(), cluster.caller()
    outer, inner = f"{owner}{1:016x}{0:04x}", f"{other}{2:016x}{0:04x}"
    cluster.control.borrow([inner], f"{owner}/o1.0")
    cluster.control.borrow([outer], f"{other}/p1")
    cluster.control.end_caller(owner)
    assert cluster.control.lent([inner]) == [True]
    assert cluster.control.give_back([outer], f"{other}/p1") == [outer], "nobody else is left to"
    assert cluster.control.give_back([inner], f"{owner}/o1.0") == [], "its maker lives"
    assert cluster.control.lent([inner]) == [False]
    assert not cluster.control.lingering_callers()


def test_handles_in_queued_calls_outlive_their_caller_until_the_call_has_run(
    cluster: Cluster,
) -> None:
    cluster.node("n1", CPU=1)
    caller = cluster.caller()
    destination = cluster.run(cluster.actor()).actor_id
    passed = cluster.run(cluster.actor(caller=caller)).actor_id
    for sequence in (9, 10):
        assert cluster.control.hold(passed, f"{caller}/c{sequence}:{destination}")
    assert cluster.control.end_caller(caller).stopping == ()
    assert cluster.control.lingering_callers() == [caller]
    assert cluster.control.holds(passed) == {
        f"{caller}/c9:{destination}",
        f"{caller}/c10:{destination}",
    }
    cluster.client.hset(f"ca:cur:{destination}", caller, 9)
    assert cluster.control.end_caller(caller).stopping == ()
    assert cluster.control.holds(passed) == {f"{caller}/c10:{destination}"}
    cluster.client.hset(f"ca:cur:{destination}", caller, 10)
    assert cluster.control.end_caller(caller).stopping == (passed,)
    assert cluster.control.lingering_callers() == []


def test_handles_in_queued_calls_go_with_a_dead_destination(cluster: Cluster) -> None:
    cluster.node("n1", CPU=1)
    caller = cluster.caller()
    destination = cluster.run(cluster.actor()).actor_id
    passed = cluster.run(cluster.actor(caller=caller)).actor_id
    cluster.control.hold(passed, f"{caller}/c1:{destination}")
    cluster.control.end_caller(caller)
    cluster.control.kill(destination, "test")
    assert cluster.control.end_caller(caller).stopping == (passed,)


def test_a_call_that_was_never_sent_is_settled_by_the_callers_last_message(
    cluster: Cluster,
) -> None:
    cluster.node("n1", CPU=1)
    caller = cluster.caller()
    first, second = (cluster.run(cluster.actor()).actor_id for _ in range(2))
    passed = cluster.run(cluster.actor(caller=caller)).actor_id
    cluster.control.hold(passed, f"{caller}/c1:{first}")
    cluster.control.hold(passed, f"{caller}/c2:{second}")
    cluster.control.end_caller(caller)
    assert cluster.control.settle_calls(caller, first).stopping == ()
    assert cluster.control.lingering_callers() == [caller]
    assert cluster.control.settle_calls(caller, second).stopping == (passed,)
    assert cluster.control.lingering_callers() == []


def test_a_lingering_hold_may_be_moved_to_the_receiver(cluster: Cluster) -> None:
    cluster.node("n1", CPU=1)
    caller, receiver = cluster.caller(), cluster.caller()
    destination = cluster.run(cluster.actor()).actor_id
    passed = cluster.run(cluster.actor(caller=caller)).actor_id
    token = f"{caller}/c1:{destination}"
    cluster.control.hold(passed, token)
    cluster.control.end_caller(caller)
    assert cluster.control.move_hold(passed, token, f"{receiver}/p")
    assert cluster.control.holds(passed) == {f"{receiver}/p"}
    assert cluster.control.lingering_callers() == []


def test_the_end_of_a_driver_ends_its_job(
    cluster: Cluster, heard: Callable[[], list[tuple[str, str]]]
) -> None:
    cluster.node("n1", CPU=2)
    worker = cluster.caller()
    alive = cluster.run(cluster.actor(CPU=1))
    child = cluster.run(cluster.actor(caller=worker))
    stopping = cluster.run(cluster.actor())
    cluster.control.release_hold(stopping.actor_id, f"{cluster.driver}/p")
    starting = cluster.actor()
    cluster.begin(starting)
    placed = cluster.actor(CPU=1)
    pending = cluster.actor(CPU=1)
    detached = cluster.run(cluster.actor(detached=True)).actor_id
    cluster.control.hold(detached, f"{cluster.job}/job")
    begun = cluster.placement(starting)
    heard()
    ended = cluster.control.end_caller(cluster.driver)
    assert set(ended.stop) == {alive, child, stopping, begun}
    assert set(ended.cancelled) == {placed, pending}
    assert ended.stopping == ()
    assert ended.placements == ()
    assert all(
        cluster.record(actor).state == "DEAD" and "driver" in cluster.record(actor).cause
        for actor in (alive.actor_id, child.actor_id, starting, placed, pending)
    )
    assert cluster.state(detached) == "ALIVE"
    assert sum(text[0] == "D" for _, text in heard()) == 6
    (job,) = cluster.control.jobs()
    assert job.job_id == cluster.job
    assert job.ended_at is not None
    assert job.actors == 5
    assert cluster.control.holds(detached) == set()
    assert not cluster.control.hold(detached, f"{cluster.job}/job"), "the job has ended"
    assert cluster.control.end_caller(cluster.driver).stop == ()


def test_another_jobs_actors_are_left_alone(cluster: Cluster) -> None:
    cluster.node("n1", CPU=1)
    actor = cluster.run(cluster.actor()).actor_id
    job, driver = cluster.short_id(), cluster.short_id()
    cluster.control.register_caller(driver, job, lease=60, node_id=None, driver=True)
    cluster.control.hold(actor, f"{driver}/p")
    ended = cluster.control.end_caller(driver)
    assert ended == type(ended)()
    assert cluster.state(actor) == "ALIVE"
    assert {record.job_id: record.ended_at is None for record in cluster.control.jobs()} == {
        cluster.job: True,
        job: False,
    }


def test_forgetting_a_job_leaves_no_key(cluster: Cluster) -> None:
    control = cluster.control
    node = cluster.node("n1", CPU=1)
    control.define(cluster.job, "digest", b"\x80class")
    control.define(cluster.job, "digest", b"other")
    assert control.definition(cluster.job, "digest") == b"\x80class"
    assert control.definition(cluster.job, "unknown") is None
    reaped = cluster.run(cluster.actor())
    unreaped = cluster.run(cluster.actor(CPU=1))
    cluster.actor(CPU=1)
    cluster.control.kill(reaped.actor_id, "test")
    cluster.reap(reaped)
    control.end_caller(cluster.driver)
    control.forget_job(cluster.job)
    assert control.job_actors(cluster.job) == [unreaped.actor_id]
    assert [record.actor_id for record in control.actors()] == [unreaped.actor_id]
    assert control.definition(cluster.job, "digest") is not None
    cluster.reap(unreaped)
    assert control.actors() == []
    assert control.jobs() == []
    control.remove_node(node, "left")
    assert cluster.all_keys() == set()


def test_a_forgotten_jobs_definitions_stay_for_its_detached_actors(cluster: Cluster) -> None:
    cluster.node("n1", CPU=1)
    cluster.control.define(cluster.job, "digest", b"class")
    detached = cluster.run(cluster.actor(CPU=1, detached=True))
    cluster.control.end_caller(cluster.driver)
    cluster.control.forget_job(cluster.job)
    assert cluster.state(detached.actor_id) == "ALIVE"
    assert cluster.control.definition(cluster.job, "digest") == b"class"
    cluster.control.kill(detached.actor_id, "test")
    cluster.reap(detached)
    assert cluster.control.definition(cluster.job, "digest") is None
    assert cluster.control.jobs() == []
    assert cluster.state(detached.actor_id) == "DEAD", "readable for a while"
    assert cluster.available("n1") == {"CPU": ONE}
