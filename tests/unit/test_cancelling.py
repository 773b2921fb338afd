"""Cancelling: where a call is found, whatever becomes of it at the same moment."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from celery_actors.client.cancelling import _find
from celery_actors.client.executors import Executors
from celery_actors.client.leases import Shape
from celery_actors.client.objects import ObjectState, ObjectTable
from celery_actors.client.outbox import Outbox, PendingCall
from celery_actors.exceptions import TaskCancelledError
from celery_actors.ids import object_id
from celery_actors.protocol.orders import CancelledCall
from celery_actors.worker.cancellation import Cancellations, Found, RunningCall, TaskCancellations
from celery_actors.worker.program import ActorProcess

CALLER = b"c" * 8


class Process(SimpleNamespace):
    """As much of a process as a task that waits meets."""

    def __init__(self) -> None:
        super().__init__(
            objects=ObjectTable(),
            outboxes={},
            executors=SimpleNamespace(leases=lambda _actor: True),
            housekeeping=SimpleNamespace(discard=lambda _entry: None),
            listener=SimpleNamespace(wake=lambda: None),
        )

    def box(self, name: bytes) -> Outbox:
        """An executor's outbox."""
        actor = name * 16
        box = self.outboxes[actor] = Outbox(actor, "queue", self.objects)
        return box

    def task(self, sequence: int) -> PendingCall:
        """A task that was submitted."""
        entry = self.objects.add(object_id(CALLER, sequence))
        return PendingCall(sequence, b"f", b"", (entry,))


def test_a_task_is_found_where_it_is_and_not_where_it_was_taken_back_from() -> None:
    process = Process()
    first, second, call = process.box(b"a"), process.box(b"b"), process.task(61)
    first.add(call, 62)
    assert _find(cast(Any, process), 61) == (first, call)
    assert first.withdraw(0, 62) == [call]
    assert _find(cast(Any, process), 61) is None
    second.add(call, 64)
    assert _find(cast(Any, process), 61) == (second, call)


def test_a_cancelled_task_that_is_taken_back_goes_to_nobody() -> None:
    process = Process()
    executors = Executors(cast(Any, process))
    pool = executors._pool(Shape(()))
    cancelled, other = process.task(1), process.task(2)
    cancelled.cancelled = TaskCancelledError("by a test")
    executors._again(pool, [cancelled, other])
    assert list(pool.ready) == [other]
    assert cancelled.entries[0].state is ObjectState.FAILED
    assert cancelled.entries[0].error is cancelled.cancelled
    assert other.entries[0].pending


def test_a_task_is_not_over_because_a_later_one_is() -> None:
    """What was submitted first may have its place in an executor behind what is finished there."""
    values: list[Any] = []
    executor = SimpleNamespace(
        _cancellations=TaskCancellations(),
        _commits=SimpleNamespace(
            is_finished=lambda _caller, sequence: sequence <= 20,
            add_values=lambda _caller, added: values.extend(added),
        ),
        _runner=SimpleNamespace(cancelled_result=lambda _caller, task: task),
    )
    wanted = CancelledCall.decode(CancelledCall(CALLER, 10, 30).encode())
    assert ActorProcess._cancel_call(cast(Any, executor), wanted, recursive=False) == "waiting"
    assert values == [10]
    earlier = CancelledCall(CALLER, 9, 20)
    assert ActorProcess._cancel_call(cast(Any, executor), earlier, recursive=False) == "over"
    with pytest.raises(ValueError, match="does not name a call"):
        CancelledCall.decode(CALLER + bytes(8))


def test_a_call_that_was_cancelled_as_it_began_is_interrupted_once() -> None:
    """Nobody could interrupt it before it had said how."""
    cancellations, running, interrupted = Cancellations(), RunningCall(), []
    running.key = (CALLER, 1)
    assert cancellations.start(running)
    assert cancellations.cancel(CALLER, 1, False, lambda: False) is Found.RUNNING
    assert not interrupted
    cancellations.interrupts(running, lambda: interrupted.append(1))
    assert interrupted == [1]
