"""Which executor gets which task."""

from __future__ import annotations

from celery_actors.client.leases import Lease, Pool, Shape
from celery_actors.client.objects import ObjectTable
from celery_actors.client.outbox import Outbox, PendingCall, TaskWithdrawn
from celery_actors.ids import object_id
from celery_actors.protocol.calls import CallFlag
from celery_actors.protocol.cursors import Cursor

CALLER = b"c" * 8


def pool(executors: int = 2, *, usual: float | None = 0.001, begun: bool = True) -> Pool:
    made = Pool(Shape(()), usual=usual)
    for number in range(executors):
        actor = bytes([number]) * 16
        made.leases[actor] = Lease(actor, idle_since=float(number), calls=int(begun))
    return made


def task(number: int = 0, **options: object) -> PendingCall:
    call = PendingCall(number, b"f", b"", (), retries=3)
    for name, value in options.items():
        setattr(call, name, value)
    return call


def loads(made: Pool) -> list[int]:
    return sorted(len(lease.tasks) for lease in made.leases.values())


def give(made: Pool, *calls: PendingCall, now: float = 0.0) -> list[tuple[Lease, PendingCall]]:
    made.ready.extend(calls)
    return list(made.give(now))


def test_free_executors_come_first_then_those_with_least() -> None:
    made = pool()
    assert len(give(made, *(task(n) for n in range(5)))) == 5
    assert loads(made) == [2, 3]


def test_one_at_a_time_until_tasks_are_known_to_be_short() -> None:
    for made in (pool(usual=None), pool(usual=1.0), pool(begun=False)):
        give(made, *(task(n) for n in range(5)))
        assert loads(made) == [1, 1]
        assert len(made.ready) == 3


def test_no_more_waits_than_is_soon_done() -> None:
    made = pool(1, usual=0.004)
    give(made, *(task(n) for n in range(100)))
    assert loads(made) == [6]


def test_a_task_that_may_not_be_tried_again_has_an_executor_for_itself() -> None:
    made = pool()
    calls = [task(0, retries=0), task(1), task(2, retries=0), task(3)]
    give(made, *calls)
    assert loads(made) == [1, 1]
    assert [call.task for call in made.ready] == [2, 3]
    first = next(iter(made.leases.values()))
    made.done(next(iter(first.tasks)), 0.001)
    list(made.give(0.001))
    assert loads(made) == [1, 2]
    assert not first.tasks.keys() - {calls[2]}, "nothing behind it"


def test_limits_of_the_shape_are_kept() -> None:
    made = pool()
    made.shape = Shape((), max_calls=10)
    give(made, *(task(n) for n in range(5)))
    assert loads(made) == [1, 1]


def test_what_waits_behind_a_slow_task_is_asked_back_again_and_again() -> None:
    made = pool(1)
    calls = [task(n) for n in range(3)]
    give(made, *calls, now=10.0)
    (lease,) = made.leases.values()
    assert made.overdue(10.019) == []
    assert made.next_due == 10.02
    assert made.overdue(10.02) == [lease]
    assert [call.asked_back for call in calls] == [False, True, True]
    assert give(made, task(9), now=10.03) == [], "it gets no more meanwhile"
    assert made.overdue(10.03) == []
    assert made.overdue(made.next_due) == [lease]
    made.done(calls[0], 11.0)
    assert len(list(made.give(11.0))) == 1
    assert made.overdue(11.01) == []


def test_one_task_alone_is_not_overdue() -> None:
    made = pool(1)
    give(made, task())
    assert made.overdue(1000.0) == []


def test_the_usual_time_follows_the_tasks() -> None:
    made = pool(1)
    for now in range(1, 40):
        give(made, task(), now=now)
        made.done(next(iter(next(iter(made.leases.values())).tasks)), now + 0.015)
    assert made.usual is not None
    assert abs(made.usual - 0.015) < 0.001
    assert made.depth == 1


def test_only_the_first_may_have_begun_when_an_executor_dies() -> None:
    made = pool(1)
    calls = [task(n) for n in range(3)]
    give(made, *calls)
    (lease,) = made.leases.values()
    assert [lease.is_first(call) for call in calls] == [True, False, False]
    lease.died = True
    made.take_back(calls[0])
    assert [lease.is_first(call) for call in calls] == [False, False, False]
    assert give(made, task(9)) == [], "it gets nothing more"


def outbox() -> tuple[Outbox, ObjectTable, list[PendingCall]]:
    objects = ObjectTable()
    box = Outbox(b"a" * 16, "queue", objects)
    calls = []
    for sequence in (1, 2, 3):
        call = PendingCall(sequence, b"f", b"x", (objects.add(object_id(CALLER, sequence)),))
        box.add(call, sequence)
        calls.append(call)
    for call in box.take(10, 1000):
        call.sent = True
    return box, objects, calls


def test_the_places_of_withdrawn_calls_are_still_taken() -> None:
    box, _, calls = outbox()
    box.rewind()
    assert box.withdraw(1, 3) == calls[1:]
    assert box.withdraw(1, 3) == [], "only once"
    assert [call.sequence for call in box.unsent] == [1, 2, 3]
    assert [call.previous for call in box.unsent] == [0, 1, 2]
    places = list(box.unsent)[1:]
    assert all(place.flags & CallFlag.CANCELLED for place in places)
    assert all(place.payload == b"" for place in places)
    resolved = box.resolve_through(Cursor(3))
    assert resolved == [calls[0], *places]
    assert all(call.entries[0].pending for call in calls[1:]), "another executor's to settle"
    assert (box.bytes, box.unresolved) == (0, {})


def test_a_task_that_was_passed_over_while_an_answer_may_have_been_lost_runs_elsewhere() -> None:
    box, _, calls = outbox()
    back: list[PendingCall] = []

    def take(call: PendingCall, error: Exception) -> bool:
        assert isinstance(error, TaskWithdrawn)
        back.append(call)
        return True

    for call in calls:
        call.on_failed = take
    calls[1].doubted = True
    assert box.resolve_through(Cursor(3)) == [calls[0], calls[2]]
    assert back == [calls[1]]
    assert [call.entries[0].pending for call in calls] == [False, True, False]
