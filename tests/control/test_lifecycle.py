"""An actor's record from creation to the reaping of its process."""

from __future__ import annotations

from collections.abc import Callable

from .cluster import ONE, Cluster, ids

Heard = Callable[[], list[tuple[str, str]]]


def test_the_whole_way(cluster: Cluster) -> None:
    node = cluster.node("n1", gpus=(3,), CPU=2)
    actor = cluster.actor(CPU=1, GPU=1)
    placement = cluster.placement(actor)
    order = cluster.control.begin(actor, placement.incarnation, node, cluster.short_id())
    assert order is not None
    assert order.blob == b"\x00blob\xff"
    assert order.gpu_ids == (3,)
    assert order.actor.state == "STARTING"
    assert order.actor.incarnation == placement.incarnation
    assert cluster.control.alive(actor, placement.incarnation, 4321)
    record = cluster.record(actor)
    assert (record.state, record.ray_state, record.pid) == ("ALIVE", "ALIVE", 4321)
    assert (record.class_name, record.kind, record.job_id) == ("NeuralNet", "actor", cluster.job)
    assert record.resources == {"CPU": ONE, "GPU": ONE}
    assert record.gpu_ids == (3,)
    assert record.holds == 1
    assert not record.detached
    assert record.error is None
    assert 0 <= record.state_since - record.created_at < 60
    assert cluster.control.release_hold(actor, f"{cluster.driver}/p")
    assert cluster.state(actor) == "STOPPING"
    assert cluster.control.failed(actor, placement.incarnation, "no handle is left", None)
    record = cluster.record(actor)
    assert (record.state, record.cause, record.incarnation) == ("DEAD", "no handle is left", None)
    assert cluster.available("n1") == {"CPU": ONE, "GPU": 0}
    assert not cluster.control.reaped(actor, placement.incarnation, node, "exit 0").died_now
    assert cluster.record(actor).cause == "no handle is left"
    assert cluster.available("n1") == {"CPU": 2 * ONE, "GPU": ONE}


def test_unknown_actors(cluster: Cluster) -> None:
    nobody = cluster.long_id()
    control = cluster.control
    assert control.actor(nobody) is None
    assert control.begin(nobody, "0" * 16, "0" * 32, "0" * 16) is None
    assert not control.alive(nobody, "0" * 16, 1)
    assert not control.failed(nobody, "0" * 16, "x", None)
    assert control.kill(nobody, "x").already_dead
    assert not control.reaped(nobody, "0" * 16, "0" * 32, "x").died_now
    assert control.block(nobody, "0" * 16) == ()
    control.unblock(nobody, "0" * 16)
    assert control.holds(nobody) == set()
    assert not control.hold(nobody, f"{cluster.driver}/p")
    assert not control.release_hold(nobody, f"{cluster.driver}/p")
    assert control.actors() == []
    assert control.actors(cluster.job) == []
    assert {key for key in cluster.all_keys() if nobody in key} == set()


def test_a_placement_is_begun_once(cluster: Cluster) -> None:
    node, other = cluster.node("a", CPU=1), cluster.node("b", CPU=1)
    actor = cluster.actor(CPU=1)
    incarnation = cluster.placement(actor).incarnation
    first, second = cluster.short_id(), cluster.short_id()
    assert cluster.control.begin(actor, incarnation, other, first) is None
    assert cluster.control.begin(actor, "f" * 16, node, first) is None
    order = cluster.control.begin(actor, incarnation, node, first)
    assert order is not None
    assert cluster.control.begin(actor, incarnation, node, second) is None
    assert cluster.control.begin(actor, incarnation, node, first) == order, "an attempt repeated"
    assert cluster.control.alive(actor, incarnation, 7)
    assert cluster.control.begin(actor, incarnation, node, first) is None


def test_alive_is_refused_to_another_incarnation_and_repeatable_by_its_own(
    cluster: Cluster,
) -> None:
    cluster.node("n1", CPU=1)
    actor = cluster.actor()
    incarnation = cluster.placement(actor).incarnation
    assert not cluster.control.alive(actor, incarnation, 7), "not begun"
    cluster.begin(actor)
    assert not cluster.control.alive(actor, "f" * 16, 7)
    assert cluster.control.alive(actor, incarnation, 7)
    assert cluster.control.alive(actor, incarnation, 7)
    assert not cluster.control.alive(actor, incarnation, 8)


def test_a_constructor_that_raises(cluster: Cluster, heard: Heard) -> None:
    node = cluster.node("n1", CPU=1)
    actor = cluster.actor(CPU=1)
    incarnation = cluster.placement(actor).incarnation
    cluster.begin(actor)
    heard()
    assert not cluster.control.failed(actor, "f" * 16, "another incarnation", None)
    assert cluster.state(actor) == "STARTING"
    assert cluster.control.failed(actor, incarnation, "ValueError: \udcff", b"\x80pickle")
    assert cluster.control.failed(actor, incarnation, "ValueError: \udcff", b"\x80pickle")
    assert heard() == [("ca:cluster", f"D{actor}")]
    record = cluster.record(actor)
    assert record.state == "DEAD"
    assert record.error == b"\x80pickle"
    assert "ValueError" in record.cause
    assert cluster.available("n1") == {"CPU": 0}, "its process is still there"
    assert not cluster.control.failed(actor, "f" * 16, "other", None)
    waiting = cluster.actor(CPU=1)
    assert ids(cluster.control.reaped(actor, incarnation, node, "exit 1").placements) == [waiting]


def test_killing_clears_the_incarnation_at_once_and_keeps_the_resources(
    cluster: Cluster, heard: Heard
) -> None:
    cluster.node("n1", CPU=1)
    placement = cluster.run(cluster.actor(CPU=1))
    heard()
    killed = cluster.control.kill(placement.actor_id, "killed by the driver")
    assert killed.node == placement
    assert not killed.was_pending
    assert not killed.already_dead
    assert heard() == [("ca:cluster", f"D{placement.actor_id}")]
    assert cluster.client.hget(f"ca:actor:{placement.actor_id}", "incarnation") == b""
    assert cluster.available("n1") == {"CPU": 0}
    again = cluster.control.kill(placement.actor_id, "again")
    assert again.already_dead
    assert again.node == placement, "not reaped: may be told again"
    assert cluster.record(placement.actor_id).cause == "killed by the driver"
    assert not cluster.control.alive(placement.actor_id, placement.incarnation, 7)
    cluster.reap(placement)
    assert cluster.available("n1") == {"CPU": ONE}
    assert cluster.control.kill(placement.actor_id, "again").node is None


def test_killing_a_placement_not_begun_frees_it_at_once(cluster: Cluster) -> None:
    cluster.node("n1", CPU=1)
    placed, waiting = cluster.actor(CPU=1), cluster.actor(CPU=1)
    old = cluster.placement(placed)
    killed = cluster.control.kill(placed, "test")
    assert killed.was_pending
    assert killed.node is None
    assert ids(killed.placements) == [waiting]
    assert cluster.control.begin(placed, old.incarnation, old.node_id, "c" * 16) is None


def test_a_process_that_died_by_itself(cluster: Cluster, heard: Heard) -> None:
    cluster.node("n1", CPU=1)
    placement = cluster.run(cluster.actor(CPU=1))
    heard()
    first = cluster.control.reaped(
        placement.actor_id, placement.incarnation, placement.node_id, "killed by signal 9"
    )
    assert first.died_now
    assert heard() == [("ca:cluster", f"D{placement.actor_id}")]
    second = cluster.control.reaped(
        placement.actor_id, placement.incarnation, placement.node_id, "killed by signal 9"
    )
    assert not second.died_now
    assert heard() == []
    assert cluster.record(placement.actor_id).cause == "killed by signal 9"
    assert cluster.available("n1") == {"CPU": ONE}


def test_a_late_reaping_of_an_old_incarnation_frees_nothing_else(cluster: Cluster) -> None:
    cluster.node("n1", CPU=1)
    actor = cluster.actor(CPU=1)
    old = cluster.placement(actor)
    cluster.sweep()
    cluster.run(actor)
    assert not cluster.control.reaped(actor, old.incarnation, old.node_id, "late").died_now
    assert cluster.state(actor) == "ALIVE"
    assert cluster.available("n1") == {"CPU": 0}


def test_dead_records_stay_readable_for_ten_minutes(cluster: Cluster) -> None:
    cluster.node("n1", CPU=1)
    placement = cluster.run(actor := cluster.actor())
    assert cluster.client.pttl(f"ca:actor:{actor}") == -1
    cluster.control.kill(actor, "test")
    assert cluster.client.pttl(f"ca:actor:{actor}") == -1, "not reaped"
    assert cluster.control.job_actors(cluster.job) == [actor]
    cluster.reap(placement)
    assert 540_000 < cluster.client.pttl(f"ca:actor:{actor}") <= 600_000
    assert cluster.control.job_actors(cluster.job) == []
    assert [record.actor_id for record in cluster.control.actors(cluster.job)] == [actor]
    assert [record.actor_id for record in cluster.control.actors()] == [actor]
    cluster.client.zadd("ca:actors", {actor: 1})
    cluster.control.expired()
    assert cluster.control.actors() == []


def test_an_actor_unheld_before_it_runs_still_runs_its_calls(cluster: Cluster) -> None:
    cluster.node("n1", CPU=1)
    running = cluster.run(cluster.actor(CPU=1))
    actor = cluster.actor(CPU=1)
    assert cluster.control.release_hold(actor, f"{cluster.driver}/p")
    record = cluster.record(actor)
    assert record.state == "PENDING"
    assert record.stopping
    assert not cluster.control.hold(actor, f"{cluster.driver}/p")
    cluster.reap(running)
    cluster.run(actor)
    assert cluster.state(actor) == "STOPPING"


def test_what_is_published_when_requests_wait_and_executors_are_placed(
    cluster: Cluster, heard: Heard
) -> None:
    node = cluster.node("n1", CPU=1)
    assert heard() == [("ca:cluster", f"N{node}")]
    first = cluster.actor(kind="executor", CPU=1)
    assert heard() == [(f"ca:p:{cluster.driver}", f"L{first}")]
    second = cluster.actor(kind="executor", CPU=1)
    assert heard() == [("ca:cluster", "R")]
    placement = cluster.run(first)
    cluster.reap(placement)
    assert heard() == [
        ("ca:cluster", f"D{first}"),
        (f"ca:p:{cluster.driver}", f"L{second}"),
    ]
