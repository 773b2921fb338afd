"""What the owner of objects says to those who wait for them, and in which order."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest
import redis

from celery_actors.client.objects import ObjectState, ObjectTable
from celery_actors.client.ownership import Ownership
from celery_actors.exceptions import ActorDiedError, ObjectLostError, SessionEndedError
from celery_actors.ids import object_id
from celery_actors.protocol.signing import Signer
from celery_actors.store.codec import Codec

CALLER = b"c" * 8
DIED = ActorDiedError("it died")


class Store:
    """Keeps the first value of each object, as the script does."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.told: list[bytes] = []
        self.is_away = False

    def fetch(self, oids: list[bytes]) -> list[bytes | None]:
        return [self.values.get(oid) for oid in oids]

    def settle(self, values: dict[bytes, bytes]) -> None:
        if self.is_away:
            raise redis.ConnectionError("away")
        for oid, value in values.items():
            self.values.setdefault(oid, value)
            self.told.append(oid)


@pytest.fixture
def process() -> Any:
    codec = Codec(Signer(b"k" * 32), cast(Any, None), 1 << 20, cast(Any, None))
    made = SimpleNamespace(
        objects=ObjectTable(), results=Store(), codec=codec, lock=threading.Lock(), caller=CALLER
    )
    made.ownership = Ownership(cast(Any, made))
    return made


def stored_error(process: Any, oid: bytes) -> type[BaseException] | None:
    blob = process.results.values.get(oid)
    if blob is None:
        return None
    try:
        process.codec.load(oid, blob)
    except Exception as error:  # noqa: BLE001 - it is what is asked for
        return type(error)
    return None


def test_what_fails_is_stored_if_its_ref_has_left(process: Any) -> None:
    objects = process.objects
    left, stayed = (objects.add(object_id(CALLER, n)) for n in (1, 2))
    left.escaped = True
    for entry in (left, stayed):
        objects.settle(entry, ObjectState.FAILED, error=DIED)
    process.ownership.run()
    assert stored_error(process, left.oid) is ActorDiedError
    assert stayed.oid not in process.results.values


def test_what_has_failed_is_stored_when_its_ref_leaves(process: Any) -> None:
    entry = process.objects.add(object_id(CALLER, 1))
    process.objects.settle(entry, ObjectState.FAILED, error=DIED)
    process.ownership.run()
    assert not process.results.values
    entry.escaped = True
    process.objects.tell_of_failure(entry)
    process.ownership.run()
    assert stored_error(process, entry.oid) is ActorDiedError


def test_who_asks_for_what_has_just_failed_and_is_in_no_table_gets_its_error(process: Any) -> None:
    """With its last ref the entry goes at once; that the object is lost would be wrong."""
    entry = process.objects.add(object_id(CALLER, 1))
    entry.escaped = True
    process.objects.settle(entry, ObjectState.FAILED, error=DIED)
    del process.objects.entries[entry.oid]
    process.ownership.asked(entry.oid)
    process.ownership.run()
    assert stored_error(process, entry.oid) is ActorDiedError


def test_who_asks_early_is_told_later(process: Any) -> None:
    entry = process.objects.add(object_id(CALLER, 1))
    process.ownership.asked(entry.oid)
    process.ownership.run()
    assert not process.results.told
    process.objects.settle(entry, ObjectState.FAILED, error=DIED)
    process.ownership.run()
    assert stored_error(process, entry.oid) is ActorDiedError


def test_a_value_that_was_committed_stays(process: Any) -> None:
    entry = process.objects.add(object_id(CALLER, 1))
    entry.escaped = True
    process.results.values[entry.oid] = b"committed"
    process.objects.settle(entry, ObjectState.FAILED, error=DIED)
    process.ownership.asked(entry.oid)
    process.ownership.run()
    assert process.results.values[entry.oid] == b"committed"


def test_what_could_not_be_stored_is_stored_later(process: Any) -> None:
    failed = process.objects.add(object_id(CALLER, 1))
    failed.escaped = True
    process.objects.settle(failed, ObjectState.FAILED, error=DIED)
    away_at_first(process)
    assert stored_error(process, failed.oid) is ActorDiedError


def test_who_could_not_be_answered_is_answered_later(process: Any) -> None:
    asked = object_id(CALLER, 9)
    process.ownership.asked(asked)
    away_at_first(process)
    assert stored_error(process, asked) is ObjectLostError


def away_at_first(process: Any) -> None:
    process.results.is_away = True
    for _ in range(2):
        with pytest.raises(redis.ConnectionError):
            process.ownership.run()
    process.results.is_away = False
    process.ownership.run()


def test_the_session_may_end_while_errors_are_stored(process: Any) -> None:
    for n in (1, 2):
        entry = process.objects.add(object_id(CALLER, n))
        entry.escaped = True
        process.objects.settle(entry, ObjectState.FAILED, error=DIED)
    process.results.settle = lambda _values: process.objects.end_session()
    process.ownership.run()
    assert not process.objects.failed


def test_the_end_of_a_session_settles_all(process: Any) -> None:
    objects = process.objects
    pending, ready = (objects.add(object_id(CALLER, n)) for n in (1, 2))
    objects.settle(ready, ObjectState.READY, b"value")
    waiter = objects.wait_for([pending], 1)
    objects.end_session()
    assert waiter.remaining == 0
    for entry in (pending, ready):
        with pytest.raises(SessionEndedError, match=entry.oid.hex()):
            entry.refuse_if_ended()
    assert ready.blob is None
