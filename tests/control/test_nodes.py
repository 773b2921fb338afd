"""Nodes: names, leases, what a renewal tells, what a removal does."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from celery_actors.control import NodeGone, NodeNameTaken, NodeSpec, nodes

from .cluster import ONE, Cluster, ids


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> float:
    """How old something must be to be told again; nothing grows so old while a test runs."""
    monkeypatch.setattr(nodes, "_PATIENCE", 2000.0)
    return nodes._PATIENCE


def age(cluster: Cluster, actor_id: str, seconds: float, *fields: str) -> None:
    """Make times of a record lie further back."""
    for field in fields or ("since",):
        then = int(cluster.client.hget(f"ca:actor:{actor_id}", field) or 0)
        cluster.client.hset(f"ca:actor:{actor_id}", field, str(then - int(seconds * 1000)))


def test_a_record_has_what_the_node_said(cluster: Cluster) -> None:
    spec = NodeSpec(
        cluster.long_id(),
        "n1",
        "a.host",
        99,
        {"CPU": 4 * ONE, "GPU": 2 * ONE},
        (4, 1),
        {"zone": "é"},
    )
    cluster.control.register_node(spec, 60)
    cluster.control.register_node(spec, 60)
    (node,) = cluster.control.nodes()
    assert (node.node_id, node.name, node.host, node.pid) == (spec.node_id, "n1", "a.host", 99)
    assert node.resources == node.available == spec.resources
    assert node.gpus == node.free_gpus == (1, 4)
    assert node.labels == {"zone": "é"}
    assert node.reservations == 0
    assert 50 < node.lease_ends - node.joined_at < 70


def test_gpu_ids_must_match_the_number_of_gpus(cluster: Cluster) -> None:
    with pytest.raises(ValueError, match="do not match"):
        cluster.control.register_node(
            NodeSpec(cluster.long_id(), "n1", "host", 1, {"GPU": 2 * ONE}, (0,)), 60
        )


def test_registering_again_keeps_what_is_reserved(cluster: Cluster) -> None:
    spec = NodeSpec(cluster.long_id(), "n1", "host", 1, {"CPU": ONE})
    cluster.control.register_node(spec, 60)
    cluster.actor(CPU=1)
    cluster.control.register_node(spec, 60)
    assert cluster.available("n1") == {"CPU": 0}


def test_a_live_nodes_name_is_taken_until_its_lease_ends(cluster: Cluster) -> None:
    old = cluster.node("n1", CPU=1)
    with pytest.raises(NodeNameTaken, match="n1"):
        cluster.node("n1", CPU=1)
    cluster.client.zadd("ca:nodes", {old: 1})
    new = cluster.node("n1", CPU=1)
    assert cluster.control.expired().nodes == (old,)
    cluster.control.remove_node(old, "lost")
    with pytest.raises(NodeNameTaken):
        cluster.node("n1", CPU=1)
    cluster.control.remove_node(new, "left")
    cluster.node("n1", CPU=1)


def test_renewal_tells_a_lost_lease(cluster: Cluster) -> None:
    node = cluster.node("n1", CPU=1)
    cluster.client.zadd("ca:nodes", {node: 1})
    assert cluster.control.renew_node(node, 60), "late, but nobody removed it"
    assert cluster.control.expired().nodes == ()
    cluster.control.remove_node(node, "lost")
    assert not cluster.control.renew_node(node, 60)
    assert cluster.control.nodes() == []


def test_renewal_repeats_a_placement_whose_message_was_lost(
    cluster: Cluster, patience: float
) -> None:
    node = cluster.node("n1", CPU=1)
    actor = cluster.actor()
    assert cluster.control.missed(node).unstarted == ()
    age(cluster, actor, patience)
    assert cluster.control.missed(node).unstarted == (cluster.placement(actor),)
    cluster.begin(actor)
    age(cluster, actor, patience)
    assert cluster.control.missed(node).unstarted == ()


def test_renewal_repeats_a_kill_whose_message_was_lost(cluster: Cluster, patience: float) -> None:
    node = cluster.node("n1", CPU=1)
    placement = cluster.run(cluster.actor())
    cluster.control.kill(placement.actor_id, "test")
    assert cluster.control.missed(node).stale == ()
    age(cluster, placement.actor_id, patience)
    assert cluster.control.missed(node).stale == (placement,)
    cluster.reap(placement)
    assert cluster.control.missed(node).stale == ()


def test_renewal_repeats_a_stop_at_doubling_intervals(cluster: Cluster, patience: float) -> None:
    node = cluster.node("n1", CPU=1)
    actor = cluster.run(cluster.actor()).actor_id
    cluster.control.release_hold(actor, f"{cluster.driver}/p")
    told = []
    for step in range(1, 40):
        age(cluster, actor, patience / 2, "stopping_since")
        if cluster.client.hexists(f"ca:actor:{actor}", "told"):
            age(cluster, actor, patience / 2, "told")
        if cluster.control.missed(node).stopping:
            told.append(step)
    gaps = [after - before for before, after in itertools.pairwise(told)]
    assert told[0] == 2
    assert 3 <= len(gaps) <= 4
    assert all(after >= 2 * before - 1 for before, after in itertools.pairwise(gaps))


def test_removing_a_node_ends_all_that_was_there(
    cluster: Cluster, heard: Callable[[], list[tuple[str, str]]]
) -> None:
    node = cluster.node("n1", CPU=2)
    alive = cluster.run(cluster.actor(CPU=1))
    killed = cluster.run(cluster.actor())
    cluster.control.kill(killed.actor_id, "killed")
    begun = cluster.actor()
    cluster.begin(begun)
    placed = cluster.actor(CPU=1)
    bound = cluster.actor(node="n1")
    caller = cluster.caller(node)
    heard()
    removal = cluster.control.remove_node(node, "node n1 was lost")
    assert set(removal.dead) == {alive.actor_id, begun, bound, killed.actor_id}
    assert removal.placements == ()
    for actor in (alive.actor_id, begun, bound):
        assert cluster.record(actor).cause == "node n1 was lost"
        assert cluster.state(actor) == "DEAD"
    assert cluster.record(killed.actor_id).cause == "killed"
    assert cluster.state(placed) == "PENDING", "it never began: it may run elsewhere"
    assert not cluster.control.caller_alive(caller)
    published = heard()
    assert ("ca:cluster", f"N{node}") in published
    assert ("ca:cluster", f"C{caller}") in published
    assert {text for _, text in published if text[0] == "D"} == {
        f"D{actor}" for actor in (alive.actor_id, begun, bound)
    }
    assert cluster.control.job_actors(cluster.job) == [placed]
    assert not {key for key in cluster.all_keys() if node in key}

    assert not cluster.control.remove_node(node, "again").dead
    assert cluster.reap(alive) == (), "the node's worker may say so later"
    assert not {key for key in cluster.all_keys() if node in key}
    cluster.node("n2", CPU=1)
    assert cluster.node_name(placed) == "n2"


def test_removing_a_node_places_its_unbegun_elsewhere(cluster: Cluster) -> None:
    node = cluster.node("a", CPU=2)
    placed = cluster.actor(CPU=1)
    other = cluster.node("b", CPU=1)
    removal = cluster.control.remove_node(node, "left")
    assert removal.dead == ()
    assert ids(removal.placements) == [placed]
    assert removal.placements[0].node_id == other


def test_removing_a_node_releases_what_its_processes_held(cluster: Cluster) -> None:
    node = cluster.node("a", CPU=1)
    cluster.node("b", CPU=1)
    owner = cluster.caller(node)
    child = cluster.run(cluster.actor(caller=owner, node="b")).actor_id
    waiting = cluster.actor(caller=owner, node="b", CPU=1)
    other = cluster.actor(caller=owner, node="b", CPU=1)
    removal = cluster.control.remove_node(node, "lost")
    assert removal.stopping == (child,)
    assert set(removal.cancelled) == {waiting, other}
    assert cluster.available("b") == {"CPU": ONE}


def test_a_process_of_a_removed_node_is_not_registered(cluster: Cluster) -> None:
    node = cluster.node("n1", CPU=1)
    cluster.control.remove_node(node, "lost")
    with pytest.raises(NodeGone):
        cluster.caller(node)
