"""The thread that renews a lease."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import redis

from celery_actors.client.lease import LeaseKeeper
from celery_actors.config import Settings
from celery_actors.control import Control

LEASE = 0.3
PATIENCE = 60.0


@pytest.fixture
def keeper() -> Iterator[Callable[..., LeaseKeeper]]:
    made: list[LeaseKeeper] = []

    def start(
        renew: Callable[[Control], bool], on_lost: Callable[[], None] = lambda: None
    ) -> LeaseKeeper:
        settings = Settings("amqp://nobody", "redis://nobody:1/0", b"k" * 32, lease=LEASE)
        made.append(LeaseKeeper(settings, renew, on_lost))
        made[-1].start()
        return made[-1]

    yield start
    for each in made:
        each.close()


def test_it_renews_again_and_again(keeper: Callable[..., LeaseKeeper]) -> None:
    renewals = threading.Semaphore(0)

    def renew(_control: Control) -> bool:
        renewals.release()
        return True

    keeper(renew)
    for _ in range(4):
        assert renewals.acquire(timeout=PATIENCE)


@pytest.mark.parametrize(
    "error",
    [redis.ConnectionError("away"), redis.ResponseError("BUSY a script"), ValueError("a bug")],
)
def test_no_error_ends_the_renewals(keeper: Callable[..., LeaseKeeper], error: Exception) -> None:
    errors, renewed = [error] * 3, threading.Event()

    def renew(_control: Control) -> bool:
        if errors:
            raise errors.pop()
        renewed.set()
        return True

    keeper(renew)
    assert renewed.wait(PATIENCE)


def test_a_lost_lease_is_told(keeper: Callable[..., LeaseKeeper]) -> None:
    lost = threading.Event()
    keeper(lambda _control: False, lost.set)
    assert lost.wait(PATIENCE)
