"""A process that user code forks within a call is no actor."""

from __future__ import annotations

import os
import sys

import celery_actors as ray


class Forker:
    """Forks, and has its children leave the call in every way."""

    def __init__(self) -> None:
        self.calls = 0

    def count(self) -> int:
        self.calls += 1
        return self.calls

    def fork(self, way: str) -> int:
        pid = os.fork()
        if pid:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if way == "exits":
            sys.exit(6)
        if way == "says why":
            sys.exit("for a reason")
        if way == "raises":
            raise ValueError("in the child")
        return -1


WAYS = {"exits": 6, "says why": 1, "raises": 1, "returns": 0}


def test_a_forked_child_that_leaves_its_call_ends(cluster: object) -> None:
    actor = ray.remote(Forker).remote()
    assert ray.get(actor.count.remote()) == 1
    found = {way: ray.get(actor.fork.remote(way), timeout=30) for way in WAYS}
    assert found == WAYS
    assert ray.get(actor.count.remote()) == 2, "the actor is what it was"


def test_a_tasks_forked_child_is_not_retried(cluster: object) -> None:
    @ray.remote(max_retries=3, retry_exceptions=True)
    def fork() -> int:
        pid = os.fork()
        if pid == 0:
            raise ValueError("in the child")
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert ray.get(fork.remote(), timeout=30) == 1
