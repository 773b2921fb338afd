"""Waiting for what gives no signal to a test: with a deadline that says what was awaited."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from celery_actors.client.current import require_process
from celery_actors.control import ActorRecord
from celery_actors.handle import ActorHandle, actor_id_of

T = TypeVar("T")

SECONDS = 60.0
"""For what takes milliseconds on an idle machine, or a node's start: only a hang runs into it."""


def wait_until(condition: Callable[[], T], awaited: str, seconds: float = SECONDS) -> T:
    """Return the first true value of ``condition``; fail, naming what was awaited."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{seconds:g} s went by and there was not: {awaited}")
        time.sleep(0.02)  # bounded polling of another process


def record_of(actor: ActorHandle[Any] | str) -> ActorRecord:
    """Return the record of an actor, by its handle or id."""
    actor_id = actor if isinstance(actor, str) else actor_id_of(actor).hex()
    record = require_process().control.actor(actor_id)
    assert record is not None, f"actor {actor_id} has no record"
    return record


def wait_for_state(actor: ActorHandle[Any] | str, state: str) -> ActorRecord:
    """Return the actor's record once it has that state."""
    actor_id = actor if isinstance(actor, str) else actor_id_of(actor).hex()
    wait_until(lambda: record_of(actor_id).state == state, f"actor {actor_id} {state}")
    return record_of(actor_id)


def wait_until_alive(actor: ActorHandle[Any]) -> ActorRecord:
    """Return the actor's record once its constructor has run."""
    return wait_for_state(actor, "ALIVE")
