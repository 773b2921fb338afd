"""The outbox keeps order and loses nothing; acknowledgements never run ahead."""

from __future__ import annotations

from typing import Any

import pytest

from celery_actors.client import outbox as outbox_module
from celery_actors.client.objects import Entry, ObjectState, ObjectTable
from celery_actors.client.outbox import Outbox, PendingCall
from celery_actors.exceptions import ActorDiedError
from celery_actors.ids import object_id
from celery_actors.protocol.calls import CallFlag, decode_calls, encode_calls
from celery_actors.protocol.cursors import Cursor
from celery_actors.protocol.payload import encode_body
from celery_actors.protocol.signing import Signer
from celery_actors.worker.acks import Ack, Acknowledgements, ConcurrentAcknowledgements

ACTOR, CALLER = b"a" * 16, b"c" * 8


@pytest.fixture
def objects() -> ObjectTable:
    return ObjectTable()


@pytest.fixture
def box(objects: ObjectTable) -> Outbox:
    return Outbox(ACTOR, "queue", objects)


def add(
    box: Outbox, objects: ObjectTable, sequence: int, size: int = 10, **options: Any
) -> PendingCall:
    entry = objects.add(object_id(CALLER, sequence))
    call = PendingCall(task=sequence, method=b"m", payload=b"x" * size, entries=(entry,), **options)
    box.add(call, sequence)
    return call


def awaited(objects: ObjectTable, sequence: int = 900) -> Entry:
    return objects.add(object_id(CALLER, sequence))


def sequences(calls: Any) -> list[int]:
    return [call.sequence for call in calls]


def test_calls_leave_in_order_and_name_the_one_before(box: Outbox, objects: ObjectTable) -> None:
    for sequence in (3, 4, 8):
        add(box, objects, sequence)
    assert box.idle
    batch = box.take(100, 10_000)
    assert [(call.sequence, call.previous) for call in batch] == [(3, 0), (4, 3), (8, 4)]
    assert not box.idle
    assert not box.unsent
    assert box.floor == 3


def test_a_batch_is_bounded_by_calls_and_bytes_but_is_never_empty(
    box: Outbox, objects: ObjectTable
) -> None:
    for sequence in range(1, 11):
        add(box, objects, sequence, size=100)
    assert sequences(box.take(3, 10_000)) == [1, 2, 3]
    assert sequences(box.take(100, 350)) == [4, 5]
    assert sequences(box.take(100, 1)) == [6]


def test_a_call_that_waits_for_its_argument_holds_the_later_ones(
    box: Outbox, objects: ObjectTable
) -> None:
    argument = awaited(objects)
    add(box, objects, 1)
    add(box, objects, 2, arguments=(argument,))
    add(box, objects, 3)
    assert sequences(box.take(10, 10_000)) == [1]
    assert box.unblock() is False
    objects.settle(argument, ObjectState.READY, b"\0" * 17)
    assert box.unblock() is True
    assert sequences(box.take(10, 10_000)) == [2, 3]


def test_an_argument_that_the_same_actor_makes_is_not_waited_for(
    box: Outbox, objects: ObjectTable
) -> None:
    argument = awaited(objects)
    argument.producer = ACTOR
    add(box, objects, 1, arguments=(argument,))
    assert sequences(box.take(10, 10_000)) == [1]


def test_nothing_leaves_before_the_actor_is_created(box: Outbox, objects: ObjectTable) -> None:
    box.ready = False
    add(box, objects, 1)
    assert not box.take(10, 10_000)
    assert box.unblock() is False
    box.ready = True
    assert box.unblock() is True
    assert sequences(box.take(10, 10_000)) == [1]


def test_resolving_frees_the_window_and_wakes_who_waits_for_it(
    box: Outbox, objects: ObjectTable
) -> None:
    calls = [add(box, objects, sequence, kept=("kept",)) for sequence in (1, 2, 3)]
    assert box.is_full(3, 10_000)
    assert box.is_full(100, box.bytes)
    assert not box.is_full(4, 10_000)
    waiter = objects.wait_for([], 1)
    box.window_waiters.append(waiter)
    box.take(10, 10_000)
    assert sequences(box.resolve_through(Cursor(2))) == [1, 2]
    assert waiter.remaining == 0
    assert [call.entries[0].state for call in calls] == [
        ObjectState.STORED,
        ObjectState.STORED,
        ObjectState.PENDING,
    ]
    assert [call.kept for call in calls] == [(), (), ("kept",)]
    assert box.floor == 3
    assert box.bytes == calls[2].size
    assert box.resolve_through(Cursor(2)) == []
    box.resolve_through(Cursor(3))
    assert (box.bytes, box.floor, box.idle) == (0, 4, True)


def test_a_message_is_needed_while_one_of_its_own_calls_is_unresolved(
    box: Outbox, objects: ObjectTable
) -> None:
    for sequence in range(1, 7):
        add(box, objects, sequence)
    box.take(6, 10_000)
    assert [box.needs(two) for two in ((1, 2), (3, 4), (5, 6))] == [True, True, True]
    box.resolve_through(Cursor(4, (1,)))  # a concurrent actor, whose first call runs for long
    assert [box.needs(two) for two in ((1, 2), (3, 4), (5, 6))] == [True, False, True]


def test_calls_go_with_their_buffers_apart_or_not(box: Outbox, objects: ObjectTable) -> None:
    calls = [add(box, objects, sequence) for sequence in range(1, 4)]
    payload = encode_body([b"stream", b"b" * 5000], ())
    calls[0].payload = payload
    calls[1].payload, calls[1].flags = b"", CallFlag.CANCELLED  # before it was sent
    apart: list[memoryview] = []
    sizes = [len(call.encode(apart)) for call in calls]
    assert all(size < 100 for size in sizes)
    assert [bytes(buffers) for buffers in apart] == [b"b" * 5000]
    calls[0].sent = True
    assert payload in calls[0].encode(again=False)
    first, again = calls[0].encode(again=False), calls[0].encode()
    assert (first[24] & CallFlag.RESENT, again[24] & CallFlag.RESENT) == (0, CallFlag.RESENT)


def test_after_a_loss_all_unresolved_leave_again_in_order(
    box: Outbox, objects: ObjectTable
) -> None:
    argument = awaited(objects)
    for sequence in range(1, 6):
        add(box, objects, sequence)
    add(box, objects, 6, arguments=(argument,))
    box.take(3, 10_000)
    box.resolve_through(Cursor(1))
    box.rewind()
    assert sequences(box.take(10, 10_000)) == [2, 3, 4, 5]
    assert sequences(box.blocked) == [6]


def test_from_a_gap_on_calls_leave_again(box: Outbox, objects: ObjectTable) -> None:
    for sequence in range(1, 7):
        add(box, objects, sequence)
    box.take(4, 10_000)
    box.rewind_from(3)
    assert sequences(box.take(10, 10_000)) == [3, 4, 5, 6], "and none of them twice"
    box.rewind_from(3)
    box.rewind_from(3)
    assert sequences(box.take(10, 10_000)) == [3, 4, 5, 6]


def test_without_progress_the_last_is_due_again_ever_more_seldom(
    box: Outbox, objects: ObjectTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(outbox_module, "monotonic", lambda: now)
    for sequence in (1, 2, 3, 4):
        add(box, objects, sequence)
    for call in box.take(3, 10_000):
        call.sent = True
    assert box.resend_due(now + 4.9) is None, "the actor has not answered any call"
    now = box.next_resend
    assert box.resend_due(now) is not None
    box.resolve_through(Cursor(1))
    gaps = []
    for _ in range(7):
        before, now = now, box.next_resend
        due = box.resend_due(now)
        assert due is not None
        assert due.sequence == 3, "the last that was sent"
        gaps.append(now - before)
    assert gaps == [1, 2, 4, 8, 16, 30, 30]
    assert box.resends == 7
    box.resolve_through(Cursor(2))
    assert box.next_resend == now + 1, "progress makes it quick again"
    assert box.resends == 0
    box.resolve_through(Cursor(4))
    assert box.next_resend == 0


def test_death_fails_what_is_unresolved(box: Outbox, objects: ObjectTable) -> None:
    calls = [add(box, objects, sequence) for sequence in (1, 2)]
    retried = add(box, objects, 3, on_failed=lambda _call, _error: True)
    box.take(1, 10_000)
    error = ActorDiedError("dead")
    assert sequences(box.fail(error)) == [1, 2, 3]
    for call in calls:
        assert call.entries[0].state is ObjectState.FAILED
        assert call.entries[0].error is error
    assert retried.entries[0].pending, "somebody took it back"
    assert (box.bytes, len(box.unsent), len(box.unresolved)) == (0, 0, 0)


def test_a_call_whose_refs_are_gone_stores_nothing(box: Outbox, objects: ObjectTable) -> None:
    wanted, unwanted = add(box, objects, 1), add(box, objects, 2)
    unwanted.entries[0].refs = 0
    body = encode_calls(Signer(b"k"), ACTOR, CALLER, 1, [wanted.encode(), unwanted.encode()])
    flags = [call.flags for call in decode_calls(Signer(b"k"), ACTOR, body).calls]
    assert flags == [0, CallFlag.STORE_NOTHING]
    wanted.sent = True
    wanted.entries[0].refs = 0
    body = encode_calls(Signer(b"k"), ACTOR, CALLER, 1, [wanted.encode()])
    flags = decode_calls(Signer(b"k"), ACTOR, body).calls[0].flags
    assert flags == CallFlag.RESENT, "else as it was sent first"


def test_a_call_whose_ref_went_elsewhere_is_stored(box: Outbox, objects: ObjectTable) -> None:
    call = add(box, objects, 1)
    call.entries[0].refs = 0
    call.entries[0].escaped = True  # e.g. returned by the task that made the call
    body = encode_calls(Signer(b"k"), ACTOR, CALLER, 1, [call.encode()])
    assert decode_calls(Signer(b"k"), ACTOR, body).calls[0].flags == 0


# -- objects ----------------------------------------------------------------------------------


def test_a_second_value_is_ignored(objects: ObjectTable) -> None:
    entry = awaited(objects)
    objects.settle(entry, ObjectState.READY, b"first")
    objects.settle(entry, ObjectState.FAILED, error=ValueError())
    assert (entry.state, entry.blob) == (ObjectState.READY, b"first")


def test_a_failure_ends_only_those_waits_that_want_it(objects: ObjectTable) -> None:
    first, second = awaited(objects, 1), awaited(objects, 2)
    get = objects.wait_for([first, second], 2, fail_fast=True)
    wait = objects.wait_for([first, second], 2)
    objects.settle(second, ObjectState.FAILED, error=ValueError())
    assert get.remaining <= 0
    assert wait.remaining == 1


# -- acknowledgements -------------------------------------------------------------------------


def test_nothing_past_an_unfinished_delivery_is_acknowledged() -> None:
    acks = Acknowledgements()
    acks.add(1, b"a", [4, 5], [4, 5])
    acks.add(2, b"b", [3], [3])
    acks.add(3, b"a", [9], [9])
    assert acks.due() == []
    acks.committed([(b"a", 5), (b"a", 9)])
    assert acks.due() == [Ack(1, multiple=True)]
    assert acks.due() == []
    acks.committed([(b"b", 2)])
    assert acks.due() == []
    acks.committed([(b"b", 3)])
    assert acks.due() == [Ack(3, multiple=True)]
    assert len(acks) == 0


def test_tags_of_a_lost_connection_are_forgotten() -> None:
    acks = Acknowledgements()
    acks.add(7, b"a", [5], [5])
    acks.reset()
    acks.add(1, b"a", [5], [])
    assert acks.due() == []
    acks.committed([(b"a", 5)])
    assert acks.due() == [Ack(1, multiple=True)]


def test_of_concurrent_calls_each_delivery_is_acknowledged_once_all_its_calls_are_finished() -> (
    None
):
    acks = ConcurrentAcknowledgements()
    acks.add(1, b"a", [1], [1])  # runs for long
    acks.add(2, b"a", [2, 3], [2, 3])
    acks.add(3, b"b", [7], [7])
    acks.committed([(b"a", 3), (b"b", 7)])
    assert acks.due() == [Ack(3, multiple=False)]
    acks.committed([(b"a", 2)])
    assert acks.due() == [Ack(2, multiple=False)]
    assert acks.waits_for(b"a")
    assert not acks.waits_for(b"b")


def test_a_redelivered_concurrent_call_waits_for_the_run_that_goes_on() -> None:
    acks = ConcurrentAcknowledgements()
    acks.add(1, b"a", [1, 2], [1, 2])
    acks.committed([(b"a", 1)])
    assert acks.due() == []
    acks.reset()
    acks.add(1, b"a", [1], [])  # finished: a repeat that can go at once
    acks.add(2, b"a", [2], [])
    assert acks.due() == [Ack(1, multiple=False)]
    acks.committed([(b"a", 2)])
    assert acks.due() == [Ack(2, multiple=False)]
    assert len(acks) == 0
