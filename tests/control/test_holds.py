"""Holds: the last one to go stops the actor, and none brings it back."""

from __future__ import annotations

import pytest

from .cluster import Cluster


@pytest.fixture
def actor(cluster: Cluster) -> str:
    """A living actor, held by the driver's process."""
    cluster.node("n1", CPU=1)
    return cluster.run(cluster.actor()).actor_id


def test_the_creator_holds_from_the_start(cluster: Cluster, actor: str) -> None:
    assert cluster.control.holds(actor) == {f"{cluster.driver}/p"}
    assert cluster.record(actor).holds == 1


def test_the_last_release_stops_and_says_so_again(cluster: Cluster, actor: str) -> None:
    other = cluster.caller()
    assert cluster.control.hold(actor, f"{other}/p")
    assert cluster.control.hold(actor, f"{other}/p")
    assert not cluster.control.release_hold(actor, f"{cluster.driver}/p")
    assert cluster.control.release_hold(actor, f"{other}/p")
    assert cluster.state(actor) == "STOPPING"
    assert cluster.control.release_hold(actor, f"{other}/p")


def test_a_late_release_does_not_take_a_hold_taken_anew(cluster: Cluster, actor: str) -> None:
    assert cluster.control.hold(actor, f"{cluster.driver}/p2")
    assert not cluster.control.release_hold(actor, f"{cluster.driver}/p")
    assert cluster.control.holds(actor) == {f"{cluster.driver}/p2"}
    other = cluster.caller()
    assert cluster.control.move_hold(actor, f"{cluster.driver}/p2", f"{other}/p1")
    assert cluster.control.end_caller(other).stopping == (actor,)


def test_nothing_holds_what_stops_or_is_dead(cluster: Cluster, actor: str) -> None:
    token = f"{cluster.driver}/p"
    cluster.control.release_hold(actor, token)
    assert not cluster.control.hold(actor, token)
    assert not cluster.control.move_hold(actor, token, f"{cluster.driver}/o1.0")
    assert cluster.control.holds(actor) == set()
    cluster.control.kill(actor, "test")
    assert not cluster.control.hold(actor, token)
    assert not cluster.control.release_hold(actor, token)


def test_the_only_hold_can_be_moved(cluster: Cluster, actor: str) -> None:
    source, target = f"{cluster.driver}/p", f"{cluster.driver}/c17:{actor}"
    assert cluster.control.move_hold(actor, source, target)
    assert cluster.control.move_hold(actor, source, target), "its answer may have been lost"
    assert cluster.control.holds(actor) == {target}
    assert cluster.control.move_hold(actor, target, target)
    assert cluster.control.holds(actor) == {target}
    assert cluster.state(actor) == "ALIVE"


def test_a_detached_actor_needs_no_hold(cluster: Cluster) -> None:
    cluster.node("n1", CPU=1)
    actor = cluster.run(cluster.actor(detached=True)).actor_id
    assert not cluster.control.release_hold(actor, f"{cluster.driver}/p")
    assert cluster.state(actor) == "ALIVE"
    assert cluster.control.holds(actor) == set()
    assert cluster.control.hold(actor, f"{cluster.driver}/p")


def test_owners_that_have_ended_hold_nothing(cluster: Cluster, actor: str) -> None:
    gone = cluster.caller()
    cluster.control.end_caller(gone)
    for rest in ("p", "o1.0", f"c1:{actor}"):
        assert not cluster.control.hold(actor, f"{gone}/{rest}"), "nobody would release it"
        assert not cluster.control.move_hold(actor, f"{cluster.driver}/p", f"{gone}/{rest}")
    assert cluster.control.holds(actor) == {f"{cluster.driver}/p"}


def test_the_job_holds_until_it_ends(cluster: Cluster, actor: str) -> None:
    assert cluster.control.hold(actor, f"{cluster.job}/job")
    assert not cluster.control.release_hold(actor, f"{cluster.driver}/p")
    assert not cluster.control.hold(actor, f"{cluster.short_id()}/job")
    assert [stop.actor_id for stop in cluster.control.end_caller(cluster.driver).stop] == [actor]


def test_death_forgets_the_holds_on_both_sides(cluster: Cluster, actor: str) -> None:
    other = cluster.caller()
    cluster.control.hold(actor, f"{other}/p")
    cluster.control.hold(actor, f"{cluster.job}/job")
    cluster.control.kill(actor, "test")
    assert cluster.control.holds(actor) == set()
    assert not {key for key in cluster.all_keys() if "owned:" in key or "holds:" in key}


@pytest.mark.parametrize("token", ["", "p", "0123456789abcdef", "0123456789abcdef/x", "xyz/p"])
def test_a_token_of_another_form_is_refused(cluster: Cluster, actor: str, token: str) -> None:
    for act in (cluster.control.hold, cluster.control.release_hold):
        with pytest.raises(ValueError, match="no owner"):
            act(actor, token)
