"""Express: a datagram to an idle actor, and the message in its mailbox that is behind."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from celery_actors.client import express as express_module
from celery_actors.client.express import Express
from celery_actors.client.objects import ObjectTable
from celery_actors.client.outbox import Outbox, PendingCall
from celery_actors.ids import NO_INCARNATION, object_id
from celery_actors.protocol.calls import CallFlag, decode_calls
from celery_actors.protocol.cursors import Cursor
from celery_actors.protocol.signing import Signer
from celery_actors.store.express import (
    LONGEST,
    ExpressSender,
    ExpressSocket,
    express_path,
    sweep_express,
)

CALLER, INCARNATION = b"c" * 8, b"one-life"


# -- the two ends ----------------------------------------------------------------------


@pytest.fixture
def path(directory: Path) -> Path:
    return express_path(directory, INCARNATION)


@pytest.fixture
def reader(path: Path) -> Iterator[ExpressSocket]:
    made = ExpressSocket(path)
    yield made
    made.close()
    assert not path.exists()


@pytest.fixture
def sender(directory: Path) -> Iterator[ExpressSender]:
    made = ExpressSender(directory)
    yield made
    made.close()


def test_messages_come_whole_and_in_order(reader: ExpressSocket, sender: ExpressSender) -> None:
    longest = os.urandom(LONGEST)
    assert sender.send(INCARNATION, b"one")
    assert sender.send(INCARNATION, longest)
    assert [reader.receive() for _ in range(3)] == [b"one", longest, None]


def test_the_socket_is_this_users_alone(reader: ExpressSocket, path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600


def test_who_reads_nothing_is_not_waited_for(reader: ExpressSocket, sender: ExpressSender) -> None:
    sent = 0
    while sender.send(INCARNATION, b"x"):
        sent += 1
    assert sent > 1
    assert reader.receive() == b"x"


def test_where_nobody_is_nothing_is_sent(directory: Path, sender: ExpressSender) -> None:
    assert not sender.send(INCARNATION, b"x")
    express_path(directory, INCARNATION).write_bytes(b"no socket")
    assert not sender.send(INCARNATION, b"x")


def test_who_takes_a_dead_actors_name_is_not_sent_what_was_meant_for_it(
    path: Path, sender: ExpressSender
) -> None:
    first = ExpressSocket(path)
    assert sender.send(INCARNATION, b"for the first")
    first.close()
    other = ExpressSocket(path)
    assert not sender.send(INCARNATION, b"for the first")
    assert other.receive() is None
    other.close()


def test_sockets_of_the_dead_are_removed(directory: Path, reader: ExpressSocket) -> None:
    dead = express_path(directory, b"deceased")
    killed = ExpressSocket(dead)
    killed._socket.close()  # as with a kill -9: the name stays
    (directory / "ca-other").touch()
    assert sweep_express(directory) == 1
    assert not dead.exists()
    assert express_path(directory, INCARNATION).exists()
    assert (directory / "ca-other").exists()
    assert sweep_express(directory / "nowhere") == 0


# -- which calls go that way, and when they are in the mailbox -----------------------------


class Process(SimpleNamespace):
    """As much of a process as sends calls, with a mailbox that notes what comes."""

    def __init__(self, directory: Path) -> None:
        self.published: list[tuple[str, bytes]] = []
        self.woken = 0
        super().__init__(
            settings=SimpleNamespace(
                shared_memory_dir=str(directory), batch_calls=128, batch_bytes=96 * 1024
            ),
            signer=Signer(b"k"),
            lock=threading.Lock(),
            mailbox=SimpleNamespace(
                lock=threading.Lock(), publish=lambda *message: self.published.append(message)
            ),
            listener=SimpleNamespace(wake=self._wake),
            flush=lambda: None,
        )
        self.objects = ObjectTable()
        self.express = Express(cast(Any, self))
        self.sequence = 0

    def _wake(self) -> None:
        self.woken += 1

    def box(self, name: bytes, express: bytes = INCARNATION) -> Outbox:
        """The outbox to an actor, which reads what comes by express."""
        box = Outbox(name * 16, f"actor.{name.decode()}", self.objects)
        box.express, box.private = express, True
        return box

    def call(self, box: Outbox, flags: int = 0) -> list[PendingCall]:
        """Submit a call; returns the batch in which it leaves."""
        self.sequence += 1
        entry = self.objects.add(object_id(CALLER, self.sequence))
        box.add(PendingCall(self.sequence, b"m", b"\0", (entry,), flags), self.sequence)
        return box.take(128, 1 << 20)

    def send(self, box: Outbox) -> None:
        """Send a call by express."""
        batch = self.call(box)
        assert box.may_go_by_express(batch)
        (call,) = batch
        encoded, call.sent = call.encode(), True
        assert self.express.send(box, CALLER, box.floor, encoded)

    def in_mailboxes(self) -> list[tuple[str, list[int]]]:
        """What was published since the last look: queues, with the sequences of the calls."""
        found = []
        for queue, body in self.published:
            batch = decode_calls(self.signer, queue.removeprefix("actor.").encode() * 16, body)
            assert batch.express == INCARNATION
            assert batch.floor <= batch.calls[0].sequence
            found.append((queue, [call.sequence for call in batch.calls]))
        self.published.clear()
        return found


@pytest.fixture
def process(directory: Path, reader: ExpressSocket) -> Iterator[Process]:
    made = Process(directory)
    yield made
    made.express.abandon()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time goes by."""
    monkeypatch.setattr(express_module, "_TOGETHER", 1000.0)


@pytest.mark.usefixtures("slow")
def test_calls_that_follow_each_other_go_into_the_mailbox_together(process: Process) -> None:
    box = process.box(b"a")
    for sequence in range(1, 5):
        process.send(box)
        box.resolve_through(Cursor(sequence))
    assert process.in_mailboxes() == []
    process.express.publish(box)
    assert process.in_mailboxes() == [("actor.a", [1, 2, 3, 4])]
    process.express.publish(box)
    assert process.in_mailboxes() == []


def test_after_a_while_the_next_call_takes_them_along(process: Process) -> None:
    box = process.box(b"a")
    process.send(box)
    box.resolve_through(Cursor(1))
    time.sleep(express_module._TOGETHER)  # what goes by is the time that they may wait
    process.send(box)
    assert process.in_mailboxes() == [("actor.a", [1, 2])]


def test_if_no_call_follows_the_background_thread_comes(process: Process) -> None:
    express = process.express
    assert express.next_due == float("inf")
    process.send(process.box(b"a"))
    assert process.woken == 1
    assert express.next_due < float("inf")
    time.sleep(express_module._TOGETHER)
    express.look()
    assert process.in_mailboxes() == [("actor.a", [1])]
    time.sleep(express_module._LINGER)
    express.look()
    assert express.next_due == float("inf")


@pytest.mark.usefixtures("slow")
def test_who_falls_asleep_sends_them_first(process: Process) -> None:
    process.send(process.box(b"a"))
    with process.mailbox.lock:
        process.express.catch_up()  # somebody is sending: the background thread is woken already
        assert process.in_mailboxes() == []
    process.express.catch_up()
    assert process.in_mailboxes() == [("actor.a", [1])]


def test_what_never_goes_by_express(process: Process) -> None:
    box = process.box(b"a")
    assert not box.may_go_by_express([*process.call(box), *process.call(box)])
    assert not box.may_go_by_express(process.call(box)), "others are under way"
    for flag in (CallFlag.RELEASE, CallFlag.CANCELLED):
        box = process.box(b"b")
        assert not box.may_go_by_express(process.call(box, flag))
    box = process.box(b"c")
    again = process.call(box)
    again[0].sent = True
    assert not box.may_go_by_express(again)
    box = process.box(b"d", NO_INCARNATION)
    assert not box.may_go_by_express(process.call(box))
    box = process.box(b"e")
    box.private = False
    assert not box.may_go_by_express(process.call(box)), "others may call the actor"


def test_where_it_does_not_reach_it_is_not_tried_again(process: Process) -> None:
    box = process.box(b"a", b"no-where")
    (call,) = process.call(box)
    assert not process.express.send(box, CALLER, 1, call.encode())
    assert box.express == NO_INCARNATION
    box.express = INCARNATION
    assert not process.express.send(box, CALLER, 1, bytes(LONGEST))
    assert box.express == INCARNATION, "a shorter one may go"
    assert process.in_mailboxes() == []


@pytest.mark.usefixtures("slow")
def test_a_child_forgets_what_its_parent_sends(process: Process) -> None:
    process.send(process.box(b"a"))
    process.express.abandon()
    process.express.catch_up()
    process.express.settle()
    assert process.in_mailboxes() == []


@pytest.mark.usefixtures("slow")
def test_a_lost_connection_is_told(process: Process) -> None:
    lost: list[BaseException] = []
    process.on_mailbox_lost = lost.append

    def publish(_queue: str, _body: bytes) -> None:
        raise ConnectionResetError("cut")

    process.mailbox.publish = publish
    process.send(process.box(b"a"))
    process.express.catch_up()
    assert len(lost) == 1
    assert process.mailbox.lock.acquire(blocking=False)
