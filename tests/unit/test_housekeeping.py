"""The background thread's timetable: what other threads change is read under their lock."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from celery_actors.client.housekeeping import Housekeeping


class Guarded:
    """A part of a process whose tables other threads change."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self.asked = 0

    @property
    def next_due(self) -> float:
        assert self._lock.locked(), "read without the lock that guards it"
        self.asked += 1
        return float("inf")


@pytest.mark.parametrize("part", ["executors", "recovery"])
def test_the_timetable_is_made_under_the_lock(part: str) -> None:
    lock = threading.Lock()
    guarded = Guarded(lock)
    process: Any = SimpleNamespace(
        settings=SimpleNamespace(result_ttl=3600.0),
        lock=lock,
        outboxes={},
        objects=SimpleNamespace(entries={}),
        holds={},
        executors=SimpleNamespace(next_due=1.0),
        recovery=SimpleNamespace(next_due=1.0),
        groups=SimpleNamespace(next_due=1.0),
    )
    setattr(process, part, guarded)
    assert Housekeeping(process)._next(0.0) == 1.0
    assert guarded.asked == 1
