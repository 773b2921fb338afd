"""PROTOCOL, Callers and sequences: repeats, gaps, floors, returns, re-sending."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chaos_actors import Log
from faults import broker_has_all, close_amqp_connections, consumers, unacknowledged
from raw import RawCaller
from waiting import wait_until

import celery_actors as ray
from celery_actors.client.current import require_process
from celery_actors.handle import actor_id_of
from celery_actors.ids import mailbox_name
from celery_actors.local import PrivateCluster

pytestmark = pytest.mark.usefixtures("cluster")


def ran(log: ray.ActorHandle[Any]) -> list[int]:
    return [n for _, n in ray.get(log.all.remote(), timeout=60)]


def test_a_repeat_is_dropped_by_caller_and_sequence() -> None:
    log = Log.remote()
    with RawCaller(log) as caller:
        caller.add(1, 2, 3)
        caller.wait_for(3)
        # Published anew, so not `redelivered`; and no result is there to tell.
        require_process().results.forget_caller(caller.caller.hex())
        caller.add(1, 2, 3)
        caller.add(3, 4)
        caller.wait_for(4)
        assert ran(log) == [1, 2, 3, 4]


def test_another_callers_equal_sequence_is_no_repeat() -> None:
    log = Log.remote()
    with RawCaller(log) as one, RawCaller(log) as two:
        one.add(1)
        two.add(1)
        one.wait_for(1)
        two.wait_for(1)
        assert ran(log) == [1, 1]


def test_what_was_accepted_is_known_after_a_reconnection(
    brokers: PrivateCluster, tmp_path: Path
) -> None:
    log = Log.remote()
    started, gate = tmp_path / "started", tmp_path / "gate"
    with RawCaller(log) as caller:
        caller.send((1, 0, "hold", (str(started), str(gate))), (2, 1, "add", ("raw", 2)))
        wait_until(started.exists, "the first call to run")
        close_amqp_connections(brokers)  # both calls are delivered again
        gate.touch()
        caller.wait_for(2)
        with RawCaller(log) as other:
            other.add(1)
            other.wait_for(1)
        assert ran(log) == [2, 1]


def test_after_a_gap_calls_are_dropped_and_asked_for_in_order() -> None:
    log = Log.remote()
    with RawCaller(log) as caller:
        began = time.monotonic()
        caller.add(1)
        for n in range(3, 23):
            caller.add(n)
        wait_until(caller.listen, "the actor to ask")
        assert caller.hints[0] == f"G{log._celery_actor.hex()}:2"
        assert ran(log) == [1], "nothing is held back, nothing runs out of order"
        caller.listen()
        seconds = time.monotonic() - began
        assert len(caller.hints) <= 1 + seconds, "it is asked at most once a second"
        caller.add(*range(2, 23))
        caller.wait_for(22)
        assert ran(log) == list(range(1, 23))


@pytest.mark.usefixtures("told_only")
def test_the_caller_sends_again_from_the_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log.remote()
    process = require_process()
    ray.get(log.add.remote("me", 0))
    publish = process.mailbox.publish
    lost: list[bytes] = []

    def lose_one(queue: str, body: bytes, *rest: str) -> None:
        if not lost and queue == mailbox_name(log._celery_actor):
            lost.append(body)  # written to the wire and never seen again
        else:
            publish(queue, body, *rest)

    # What went by express would not be missed.
    monkeypatch.setattr(process, "settings", replace(process.settings, express=False))
    monkeypatch.setattr(process.mailbox, "publish", lose_one)
    box = process.outboxes[actor_id_of(log)]
    refs = []
    for n in range(1, 20):
        refs.append(log.add.remote("me", n))
        process.flush()
        # Another thread may be at it: behind the message that is lost there are to be others.
        wait_until(lambda: not box.unsent, "the call to be sent")
    assert lost
    assert ray.get(refs, timeout=60) == list(range(1, 20))
    assert ran(log) == list(range(20))


def test_a_previous_call_below_the_floor_is_no_gap() -> None:
    log = Log.remote()
    with RawCaller(log) as caller:
        caller.add(1)
        caller.add(9, floor=9)  # 8 was settled some other way
        caller.wait_for(9)
        assert ran(log) == [1, 9]


def test_the_gap_of_a_caller_that_ended_is_skipped() -> None:
    log = Log.remote()
    with RawCaller(log) as caller:
        caller.add(1)
        caller.wait_for(1)
        caller.end()
        caller.add(5)
        caller.wait_for(5)
        assert ran(log) == [1, 5]


def delete_mailbox(queue: str) -> None:
    mailbox = require_process().mailbox
    with mailbox.lock:
        mailbox.delete(queue)
    broker_has_all()


def log_that_consumes(brokers: PrivateCluster) -> tuple[Any, str]:
    """Return an actor past its consumer's start, in which Celery swallows a cancellation.

    :returns: and its mailbox.
    """
    log = Log.remote()
    queue = mailbox_name(actor_id_of(log))
    for _ in range(2):
        ray.get(log.count.remote())
        wait_until(lambda: unacknowledged(brokers, queue) == 0, "the acknowledgement")
    return log, queue


def test_a_returned_message_is_sent_again(brokers: PrivateCluster) -> None:
    log, queue = log_that_consumes(brokers)
    assert ray.get(log.add.remote("me", 0)) == 0
    delete_mailbox(queue)
    assert ray.get([log.add.remote("me", n) for n in (1, 2)], timeout=60) == [1, 2]
    assert ran(log) == [0, 1, 2]


def test_without_progress_the_last_call_is_sent_again_and_brings_all_that_was_lost() -> None:
    log = Log.remote()
    process = require_process()
    pid = ray.get(log.pid.remote())
    box = process.outboxes[actor_id_of(log)]
    os.kill(pid, signal.SIGSTOP)
    try:
        refs = []
        for n in range(110):  # 64 are delivered ahead
            refs.append(log.add.remote("me", n))
            process.flush()
            # Another thread may be at it: each is to leave in a message of its own.
            wait_until(lambda: not box.unsent, "the call to be sent")
        broker_has_all()
        with process.mailbox.lock:
            purged = process.mailbox._need_channel().queue_purge(mailbox_name(log._celery_actor))
        assert purged >= 40, "these are lost, and no connection with them"
    finally:
        os.kill(pid, signal.SIGCONT)
    assert ray.get(refs, timeout=60) == list(range(110))
    assert ran(log) == list(range(110))


def test_a_deleted_mailbox_is_declared_again_by_its_actor(brokers: PrivateCluster) -> None:
    log, queue = log_that_consumes(brokers)
    delete_mailbox(queue)
    # Without any call of ours: a plain client's message, say, would find no queue.
    wait_until(lambda: consumers(brokers, queue) == 1, "the mailbox to be consumed again")
    assert ray.get(log.add.remote("me", 0), timeout=60) == 0
