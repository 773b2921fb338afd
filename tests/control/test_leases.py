"""When leases end: not because nobody could renew."""

from __future__ import annotations

import pytest
import redis

from celery_actors.control import NodeNameTaken

from .cluster import Cluster

LEASE = 60_000


def pause(cluster: Cluster, seconds: float) -> None:
    """Make it so long ago that anybody renewed, and let all leases end meanwhile."""
    last = cluster.client.hget("ca:pulse", "at")
    assert last is not None
    cluster.client.hset("ca:pulse", "at", str(int(last) - round(seconds * 1000)))
    for leases in ("ca:nodes", "ca:callers"):
        for member in cluster.client.zrange(leases, 0, -1):
            cluster.client.zadd(leases, {member: 1})


def test_while_nobody_could_renew_no_lease_has_ended(cluster: Cluster) -> None:
    node = cluster.node("n1", CPU=1)
    pause(cluster, 100)
    assert cluster.control.expired().nodes == cluster.control.expired().callers == ()
    assert [each.node_id for each in cluster.control.nodes()] == [node], "it counts as live"
    assert cluster.state(cluster.actor(CPU=1)) == "PLACED"


def test_the_first_to_renew_after_a_pause_gives_everybody_a_new_lease(cluster: Cluster) -> None:
    nodes = {cluster.node("n1", CPU=1), cluster.node("n2", CPU=1)}
    caller = cluster.caller()
    pause(cluster, 100)
    seconds, _ = cluster.client.time()
    assert cluster.control.renew_caller(caller, LEASE / 1000)
    assert cluster.control.expired().nodes == cluster.control.expired().callers == ()
    for leases in ("ca:nodes", "ca:callers"):
        for _, ends in cluster.client.zrange(leases, 0, -1, withscores=True):
            assert ends >= seconds * 1000 + LEASE
    assert {each.node_id for each in cluster.control.nodes()} == nodes


def test_a_node_that_joins_after_a_pause_ends_nobodys_lease(cluster: Cluster) -> None:
    old = cluster.node("n1", CPU=1)
    pause(cluster, 100)
    with pytest.raises(NodeNameTaken):
        cluster.node("n1", CPU=1)
    cluster.node("n2", CPU=1)
    assert cluster.control.expired().nodes == ()
    assert old in {each.node_id for each in cluster.control.nodes()}


def test_where_others_renew_a_lease_ends(cluster: Cluster) -> None:
    lost, node = cluster.node("n1", CPU=1), cluster.node("n2", CPU=1)
    pause(cluster, 5)  # less than half of a lease: others did renew meanwhile
    assert cluster.control.renew_node(node, LEASE / 1000)
    assert cluster.control.expired().nodes == (lost,)
    assert cluster.control.expired().callers == (cluster.driver,)


def test_a_full_redis_renews_leases(cluster: Cluster) -> None:
    """Else those would end of whom no renewal comes at a moment when it has room."""
    node = cluster.node("n1", CPU=1)
    pause(cluster, 5)  # others have renewed
    cluster.client.config_set("maxmemory", "1")
    try:
        with pytest.raises(redis.ResponseError, match="maxmemory"):
            cluster.client.set("ca:x", "1")
        assert cluster.control.renew_node(node, LEASE / 1000)
        assert cluster.control.renew_caller(cluster.driver, LEASE / 1000)
        assert cluster.control.expired().nodes == cluster.control.expired().callers == ()
    finally:
        cluster.client.config_set("maxmemory", "0")


def test_the_pulse_goes_with_the_last_lease(cluster: Cluster) -> None:
    node = cluster.node("n1", CPU=1)
    cluster.control.end_caller(cluster.driver)
    assert cluster.client.exists("ca:pulse")
    cluster.control.remove_node(node, "left")
    assert not cluster.client.exists("ca:pulse")
