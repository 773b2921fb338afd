"""Records of actors that are begun again, and of objects that others keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from celery_actors.control import StartOrder

from .cluster import Cluster

Heard = Callable[[], list[tuple[str, str]]]


def begun(cluster: Cluster, restarts: int = 1, **options: float) -> str:
    """An actor that runs and may be begun again."""
    spec = replace(cluster.spec(**options), max_restarts=restarts)  # type: ignore[arg-type]
    cluster.create(spec)
    begin(cluster, spec.actor_id)
    return spec.actor_id


def begin(cluster: Cluster, actor: str) -> StartOrder:
    placement = cluster.placement(actor)
    order = cluster.control.begin(
        actor, placement.incarnation, placement.node_id, cluster.short_id()
    )
    assert order is not None
    assert cluster.control.alive(actor, placement.incarnation, 1)
    return order


def lose(cluster: Cluster, actor: str, *interrupted: str) -> str:
    """Reap an actor's process; returns the incarnation that it was."""
    placement = cluster.placement(actor)
    cluster.control.reaped(
        actor, placement.incarnation, placement.node_id, "it was lost", interrupted
    )
    return placement.incarnation


def cursor(cluster: Cluster, actor: str, caller: str, text: str) -> None:
    """Store a caller's cursor at an actor, as a commit does."""
    cluster.client.hset(f"ca:cur:{actor}", caller, text)


def call_id(caller: str, sequence: int) -> str:
    return f"{caller}{sequence:016x}"


def test_the_old_incarnation_is_out_of_the_record(cluster: Cluster) -> None:
    cluster.node("n1", CPU=1)
    actor = begun(cluster, CPU=1)
    old = lose(cluster, actor)
    record = cluster.record(actor)
    assert record.incarnation not in (None, old)
    assert (record.state, record.restarts) == ("PLACED", 1)
    assert cluster.available("n1") == {"CPU": 0}


def test_while_it_waits_for_a_node_no_incarnation_may_commit(cluster: Cluster) -> None:
    node = cluster.node("n1", CPU=1)
    actor = begun(cluster, CPU=1)
    cluster.control.remove_node(node, "lost")
    record = cluster.record(actor)
    assert (record.state, record.incarnation) == ("PENDING", None)


def test_interrupted_calls_that_a_cursor_covers_are_none(cluster: Cluster) -> None:
    cluster.node("n1", CPU=1)
    actor = begun(cluster)
    cursor(cluster, actor, cluster.driver, "7;3")
    calls = [call_id(cluster.driver, n) for n in (3, 6, 8)]
    lose(cluster, actor, *calls)
    assert dict(begin(cluster, actor).attempts) == {calls[0]: 1, calls[2]: 1}


def test_attempts_add_up_until_the_call_is_finished(cluster: Cluster) -> None:
    cluster.node("n1", CPU=1)
    actor = begun(cluster, restarts=-1)
    one, two = call_id(cluster.driver, 1), call_id(cluster.driver, 2)
    lose(cluster, actor, one, two)
    begin(cluster, actor)
    lose(cluster, actor, one)
    assert dict(begin(cluster, actor).attempts) == {one: 2, two: 1}
    cursor(cluster, actor, cluster.driver, "1")
    lose(cluster, actor, two)
    assert dict(begin(cluster, actor).attempts) == {two: 2}


def test_restarts_come_to_an_end(cluster: Cluster) -> None:
    cluster.node("n1", CPU=1)
    actor = begun(cluster)
    lose(cluster, actor)
    begin(cluster, actor)
    lose(cluster, actor)
    assert cluster.state(actor) == "DEAD"


def test_with_a_node_the_record_of_what_had_begun_is_lost(cluster: Cluster) -> None:
    node = cluster.node("n1", CPU=1)
    cluster.node("n2", CPU=1)
    actor = begun(cluster, restarts=2, CPU=1)
    if cluster.node_name(actor) == "n2":
        node = cluster.record(actor).node_id or ""
    cluster.control.remove_node(node, "lost")
    assert begin(cluster, actor).unknown
    lose(cluster, actor)
    assert not begin(cluster, actor).unknown


def test_an_object_is_kept_until_the_last_gives_it_back(cluster: Cluster, heard: Heard) -> None:
    cluster.node("n1", CPU=1)
    one, two = cluster.caller(), cluster.caller()
    object_id = cluster.driver + "00" * 10
    cluster.control.borrow([object_id], f"{one}/p1")
    cluster.control.borrow([object_id], f"{two}/o5.0")
    heard()
    cluster.control.give_back([object_id], f"{one}/p1")
    assert cluster.control.lent([object_id]) == [True]
    assert heard() == []
    cluster.control.give_back([object_id], f"{two}/o5.0")
    assert cluster.control.lent([object_id]) == [False]
    assert any(text == f"F{object_id}" for _, text in heard())


def test_who_ended_keeps_no_object_and_takes_none(cluster: Cluster) -> None:
    cluster.node("n1", CPU=1)
    one = cluster.caller()
    object_id = cluster.driver + "00" * 10
    cluster.control.borrow([object_id], f"{one}/p1")
    cluster.control.end_caller(one)
    assert cluster.control.lent([object_id]) == [False]
    cluster.control.borrow([object_id], f"{one}/p2")
    assert cluster.control.lent([object_id]) == [False]
