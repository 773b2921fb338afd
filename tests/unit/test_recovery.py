"""What is given up, and when."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest
import redis

from celery_actors.client.objects import ObjectTable
from celery_actors.client.recovery import Recovery
from celery_actors.exceptions import OwnerDiedError
from celery_actors.ids import object_id

OWNER = b"o" * 8


class Store:
    """Has no value of anything."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def fetch_or_wait(self, _oid: bytes, _caller: str) -> None:
        return None

    def stop_waiting(self, _oids: list[bytes], _caller: str) -> None:
        pass

    def fetch(self, oids: list[bytes]) -> list[None]:
        if self.error is not None:
            raise self.error
        return [None for _ in oids]


@pytest.fixture
def process() -> Any:
    made = SimpleNamespace(
        objects=ObjectTable(),
        results=Store(),
        lock=threading.Lock(),
        caller=b"c" * 8,
        settings=SimpleNamespace(lease=0.0),
        control=SimpleNamespace(caller_alive=lambda _caller: False),
        listener=SimpleNamespace(wake_all=lambda: None),
        run_after=lambda: None,
    )
    made.recovery = Recovery(cast(Any, made))
    return made


def test_an_object_whose_owner_is_gone_is_given_up_also_after_an_outage(process: Any) -> None:
    entry = process.objects.add(object_id(OWNER, 1), foreign=True)
    process.recovery.resolve_foreign([entry])
    process.results.error = redis.exceptions.ResponseError("BUSY Redis is busy")
    with pytest.raises(redis.ResponseError):
        process.recovery.run()
    assert entry.pending
    process.results.error = None
    process.recovery.run()
    assert isinstance(entry.error, OwnerDiedError)
