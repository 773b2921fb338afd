"""When an actor may forget a caller that is gone."""

from __future__ import annotations

from celery_actors.worker.departures import Departures

GONE = [n.to_bytes(8, "big") for n in range(100)]


class Actor:
    """Callers that are known at an actor, all of them gone; 100 of them, so that it looks."""

    def __init__(self, *awaited: bytes) -> None:
        self.markers: list[int] = []
        self.forgotten: list[bytes] = []
        self.accepted = dict.fromkeys(GONE, 1)
        self.departures = Departures(
            lambda caller: caller == b"alive!!!", self.markers.append, self.forgotten.append
        )
        self.awaited = set(awaited)

    def look(self) -> None:
        self.departures.caller_came(self.accepted, self.awaited.__contains__)

    def marker(self, number: int) -> None:
        for caller in self.departures.marker_came(number, self.accepted):
            del self.accepted[caller]


def test_nobody_is_forgotten_before_the_marker_comes() -> None:
    actor = Actor()
    actor.look()
    assert (actor.markers, actor.forgotten) == ([1], [])
    actor.marker(1)
    assert actor.forgotten == GONE
    actor.marker(1)
    assert actor.forgotten == GONE


def test_who_lives_or_has_an_unacknowledged_delivery_is_kept() -> None:
    actor = Actor(GONE[3])
    actor.accepted[b"alive!!!"] = 1
    actor.look()
    actor.marker(1)
    assert set(actor.accepted) == {GONE[3], b"alive!!!"}


def test_of_whom_something_came_meanwhile_is_left_for_the_next_marker() -> None:
    actor = Actor()
    actor.look()
    actor.departures.came_again(GONE[0])
    actor.accepted[GONE[1]] = 2
    actor.marker(1)
    assert set(actor.accepted) == set(GONE[:2])


def test_only_the_last_marker_counts() -> None:
    """One that is lost with the connection is followed by another."""
    actor = Actor()
    actor.look()
    actor.accepted[b"another!"] = 1
    actor.accepted.update({bytes([n]) * 8: 1 for n in range(200, 255)})
    actor.look()
    assert actor.markers == [1, 2]
    actor.marker(1)
    assert actor.forgotten == []
    actor.marker(2)
    assert actor.accepted == {}


def test_few_callers_are_not_looked_at() -> None:
    actor = Actor()
    for caller in GONE[50:]:
        del actor.accepted[caller]
    actor.look()
    assert actor.markers == []
