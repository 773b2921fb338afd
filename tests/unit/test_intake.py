"""What an actor that was begun again takes, drops and suspects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

from celery_actors.protocol.calls import (
    CALLS_TASK,
    CONTENT_TYPE,
    CallFlag,
    encode_call,
    encode_calls,
)
from celery_actors.protocol.cursors import Cursor
from celery_actors.protocol.payload import encode_body, set_apart
from celery_actors.protocol.places import Notice, Place, encode_notice
from celery_actors.protocol.signing import Signer
from celery_actors.worker.acks import Acknowledgements
from celery_actors.worker.departures import Departures
from celery_actors.worker.intake import Intake

ACTOR, ONE, TWO = b"a" * 16, b"1" * 8, b"2" * 8
INCARNATION, EARLIER = b"new-one!", b"old-one!"


class Taken:
    """An intake, and what came out of it."""

    def __init__(
        self,
        cursors: Mapping[bytes, Cursor],
        suspects: int = 0,
        alive: Callable[[bytes], bool] = lambda _caller: True,
    ) -> None:
        self.inbox: SimpleQueue[Any] = SimpleQueue()
        self.asked: list[tuple[bytes, int, bool]] = []
        self.ring: dict[Place, bytes] = {}
        self.rejected: list[int] = []
        self.markers: list[int] = []
        self.forgotten: list[bytes] = []
        self.departures = Departures(alive, self.markers.append, self.forgotten.append)
        self.intake = Intake(
            ACTOR,
            Signer(b"k"),
            self.inbox,
            Acknowledgements(),
            lambda caller, sequence, by_ring: self.asked.append((caller, sequence, by_ring)),
            self.departures,
            True,
            "Counter",
            lambda _channel, tag: self.rejected.append(tag),
            self.ring.get,
            INCARNATION,
        )
        self.intake.resume(cursors, suspects)
        self._tag = 0

    def message(
        self,
        caller: bytes,
        *calls: tuple[int, int],
        flags: int = 0,
        redelivered: bool = False,
        floor: int = 1,
    ) -> None:
        """One message with calls of (sequence, previous)."""
        encoded = [encode_call(s, previous, s, flags, 1, b"m", b"\0") for s, previous in calls]
        body = encode_calls(Signer(b"k"), ACTOR, caller, floor, encoded)
        self.deliver(body, redelivered)

    def deliver(self, body: bytes, redelivered: bool = False) -> None:
        """A message comes."""
        self._tag += 1
        message = SimpleNamespace(
            body=body,
            content_type=CONTENT_TYPE,
            headers={"task": CALLS_TASK},
            channel=None,
            delivery_tag=self._tag,
            delivery_info={"redelivered": redelivered},
        )
        self.intake(message, None, None, None, None)

    @property
    def sequences(self) -> list[int]:
        """What went to the executor since the last look."""
        taken: list[int] = []
        while not self.inbox.empty():
            taken += [call.sequence for call in self.inbox.get()]
        return taken

    @property
    def suspected(self) -> list[tuple[bytes, int]]:
        return list(self.intake.attempts)


def in_a_row(first: int, last: int) -> list[tuple[int, int]]:
    return [(n, n - 1) for n in range(first, last + 1)]


def test_what_an_earlier_incarnation_committed_is_a_repeat() -> None:
    taken = Taken({ONE: Cursor(3)})
    taken.message(ONE, *in_a_row(1, 5), redelivered=True)
    assert taken.sequences == [4, 5]
    assert taken.intake.repeats == 3


def test_of_a_message_that_comes_again_only_what_is_unfinished_runs() -> None:
    taken = Taken({ONE: Cursor(4, (2,))})
    taken.message(ONE, *in_a_row(1, 5), redelivered=True)
    assert taken.sequences == [2, 5]


def test_finished_calls_between_are_no_gap() -> None:
    taken = Taken({ONE: Cursor(4, (1, 3))})
    taken.message(ONE, (1, 0), redelivered=True)
    taken.message(ONE, (5, 4))  # 3 is lost
    assert taken.sequences == [1]
    assert taken.asked == [(ONE, 2, True)]
    taken.message(ONE, (3, 2))
    taken.message(ONE, (5, 4))
    assert taken.sequences == [3, 5]


def test_a_known_recorder_leaves_nothing_to_suspect() -> None:
    taken = Taken({ONE: Cursor(1)})
    taken.message(ONE, *in_a_row(2, 5), redelivered=True)
    taken.message(ONE, *in_a_row(6, 7), flags=CallFlag.RESENT)
    assert taken.suspected == []


def test_of_what_is_redelivered_the_first_are_suspected() -> None:
    taken = Taken({ONE: Cursor(1)}, suspects=3)
    taken.message(ONE, *in_a_row(1, 3), redelivered=True)
    taken.message(TWO, *in_a_row(1, 3), redelivered=True)
    assert taken.suspected == [(ONE, 2), (ONE, 3), (TWO, 1)]


def test_what_comes_for_the_first_time_is_not() -> None:
    taken = Taken({ONE: Cursor(1)}, suspects=3)
    taken.message(ONE, *in_a_row(2, 3))
    assert taken.suspected == []


def test_what_its_caller_sends_again_is_suspected() -> None:
    """The broker may hold the first message back: nothing is redelivered then."""
    taken = Taken({ONE: Cursor(1)}, suspects=2)
    taken.message(ONE, *in_a_row(2, 5), flags=CallFlag.RESENT)
    taken.message(TWO, *in_a_row(1, 2), flags=CallFlag.RESENT)
    assert taken.sequences == [2, 3, 4, 5, 1, 2]
    # Who sends again first does so by chance: as many of each caller.
    assert taken.suspected == [(ONE, 2), (ONE, 3), (TWO, 1), (TWO, 2)]


def test_behind_a_call_that_is_new_nothing_is_suspected() -> None:
    taken = Taken({ONE: Cursor(1)}, suspects=9)
    taken.message(ONE, (2, 1), flags=CallFlag.RESENT)
    taken.message(ONE, (3, 2))
    taken.message(ONE, (4, 3), flags=CallFlag.RESENT)  # for some other reason, later
    assert taken.suspected == [(ONE, 2)]


def test_an_attempt_of_before_counts() -> None:
    taken = Taken({}, suspects=9)
    taken.intake.attempts[ONE, 1] = 1
    taken.message(ONE, (1, 0), redelivered=True)
    assert taken.intake.attempts[ONE, 1] == 2


def by_express(*call: int, to: bytes = INCARNATION, key: bytes = b"k") -> bytes:
    """A message of ONE with a call of (sequence, previous) that went by express."""
    sequence, previous = call
    encoded = encode_call(sequence, previous, sequence, 0, 1, b"m", b"\0")
    return encode_calls(Signer(key), ACTOR, ONE, previous, [encoded], to)


def test_what_came_by_express_is_run_once_and_is_no_repeat() -> None:
    taken = Taken({ONE: Cursor(1)})
    taken.intake.take_express(by_express(2, 1))
    assert taken.sequences == [2]
    taken.deliver(by_express(2, 1))
    assert taken.sequences == []
    assert (taken.intake.expressed, taken.intake.repeats) == (1, 0)
    acks = taken.intake._acks
    assert acks.due() == []
    acks.committed([(ONE, 2)])
    assert [ack.tag for ack in acks.due()] == [1]


def test_by_express_comes_only_the_next_call_of_a_caller_that_is_known() -> None:
    taken = Taken({ONE: Cursor(3)})
    for message in (
        by_express(3, 2),  # the mailbox was quicker
        by_express(6, 5),  # what is between is on its way there
        by_express(4, 3, to=EARLIER),
        encode_calls(Signer(b"k"), ACTOR, TWO, 1, [], INCARNATION),
    ):
        taken.intake.take_express(message)
    assert taken.sequences == []
    assert taken.asked == []
    assert taken.rejected == []
    taken.intake.take_express(by_express(4, 3, key=b"other"))
    assert taken.sequences == []
    assert taken.intake.rejected == 1
    taken.intake.stop()
    taken.intake.take_express(by_express(4, 3))
    assert taken.sequences == []


def test_what_went_to_an_earlier_incarnation_by_express_is_suspected() -> None:
    """The broker need not have delivered it there: it is not redelivered then."""
    taken = Taken({ONE: Cursor(1)}, suspects=3)
    taken.deliver(by_express(2, 1, to=EARLIER))
    taken.deliver(by_express(3, 2))
    taken.intake.take_express(by_express(4, 3))
    assert taken.sequences == [2, 3, 4]
    assert taken.suspected == [(ONE, 2)]


PLACE = Place("ca-ring", 0, 9, 300)


def notice(last: int, size: int, key: bytes = b"k") -> bytes:
    """A notice of calls of ONE, of so many bytes, that lie at PLACE."""
    return encode_notice(Signer(key), ACTOR, Notice(ONE, last, size, PLACE))


def in_the_ring(taken: Taken, *calls: tuple[int, int], payload: bytes) -> None:
    """A notice comes of calls of (sequence, previous) that lie in the caller's ring."""
    split = set_apart(payload, 0)
    assert split is not None
    encoded = [encode_call(s, previous, s, 0, 1, b"m", split[0]) for s, previous in calls]
    message = encode_calls(Signer(b"k"), ACTOR, ONE, 1, encoded)
    taken.ring[PLACE] = message + bytes(split[1]) * len(calls)
    taken.deliver(notice(calls[-1][0], len(message)))


def test_calls_in_a_ring_come_with_their_buffers() -> None:
    taken, payload = Taken({}), encode_body([b"stream", b"x" * 5000], ())
    taken.message(ONE, (1, 0))
    assert taken.sequences == [1]
    in_the_ring(taken, (2, 1), (3, 2), payload=payload)
    calls = taken.inbox.get()
    assert [call.sequence for call in calls] == [2, 3]
    assert [call.payload for call in calls] == [payload, payload]
    assert (taken.asked, taken.rejected) == ([], [])


def test_a_message_that_is_gone_from_its_ring_is_asked_for_by_rabbitmq() -> None:
    taken = Taken({})
    taken.message(ONE, *in_a_row(1, 3))
    taken.deliver(notice(5, 100))
    assert taken.asked == [(ONE, 4, False)]
    taken.message(ONE, (6, 5))  # what comes behind it has to wait for it
    assert taken.sequences == [1, 2, 3]
    taken.message(ONE, *in_a_row(4, 6), flags=CallFlag.RESENT)
    assert taken.sequences == [4, 5, 6]
    assert taken.rejected == []


def test_what_lies_in_a_ring_is_believed_only_if_it_is_signed() -> None:
    taken = Taken({})
    forged = encode_calls(Signer(b"other"), ACTOR, ONE, 1, [])
    taken.ring[PLACE] = forged
    taken.deliver(notice(1, len(forged)))
    assert taken.rejected == [1]
    taken.deliver(notice(1, len(forged), b"other"))
    assert taken.rejected == [1, 2]
    short = encode_body([b"stream", bytes(5000)], ())
    in_the_ring(taken, (1, 0), payload=short)
    assert taken.inbox.get()[0].payload == short
    taken.ring[PLACE] = taken.ring[PLACE][:-1]
    taken.deliver(notice(1, len(taken.ring[PLACE]) - 4999))
    assert taken.rejected == [1, 2, 4]
    of_another = encode_calls(Signer(b"k"), ACTOR, TWO, 1, [])
    taken.ring[PLACE] = of_another
    taken.deliver(notice(1, len(of_another)))
    assert taken.rejected == [1, 2, 4, 5]


@pytest.mark.parametrize(
    "payload", [b"\3", b"\3\0", b"\3\0\0", b"\3\0\2" + bytes(15), b"\3\0\2" + bytes(8) + b"\1" * 8]
)
def test_signed_nonsense_in_a_ring_is_rejected(payload: bytes) -> None:
    taken = Taken({})
    call = encode_call(1, 0, 1, 0, 1, b"m", payload)
    message = taken.ring[PLACE] = encode_calls(Signer(b"k"), ACTOR, ONE, 1, [call])
    taken.deliver(notice(1, len(message)))
    assert taken.rejected == [1]
    assert taken.sequences == []


def test_a_call_that_was_cancelled_lies_in_a_ring_without_a_payload() -> None:
    taken = Taken({})
    call = encode_call(1, 0, 1, CallFlag.CANCELLED, 1, b"m", b"")
    message = taken.ring[PLACE] = encode_calls(Signer(b"k"), ACTOR, ONE, 1, [call])
    taken.deliver(notice(1, len(message)))
    assert taken.sequences == [1]


def test_what_comes_again_and_is_gone_from_its_ring_is_a_repeat() -> None:
    """It is resolved: its caller has written something else there, and goes on to use its ring."""
    taken = Taken({})
    in_the_ring(taken, *in_a_row(1, 3), payload=encode_body([b"stream", bytes(5000)], ()))
    assert taken.sequences == [1, 2, 3]
    taken.ring.clear()
    taken.deliver(notice(3, 100), redelivered=True)
    assert (taken.asked, taken.rejected, taken.intake.repeats) == ([], [], 1)
    taken.message(ONE, (4, 3))
    assert taken.sequences == [4]


def test_what_a_caller_that_has_left_sent_again_fills_the_gap_of_its_ring() -> None:
    alive = [True]
    taken = Taken({}, alive=lambda _caller: alive[0])
    taken.message(ONE, (1, 0))
    alive[0] = False
    taken.deliver(notice(4, 100))
    taken.message(ONE, (5, 4))  # was sent before it left, behind what lay in the ring
    taken.message(ONE, *in_a_row(2, 5), flags=CallFlag.RESENT)
    assert taken.sequences == [1, 2, 3, 4, 5]
    taken.message(ONE, (8, 7))  # no ring left this gap, and nobody will fill it
    assert taken.sequences == [8]
