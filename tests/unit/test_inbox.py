"""Who reads the mailbox's socket: the executor while it waits, else the consumer's loop."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty

import pytest
from amqp.exceptions import RecoverableConnectionError
from test_buffered import Reader, delivered

from celery_actors.store.express import ExpressSender, ExpressSocket, express_path
from celery_actors.worker.inbox import Inbox, MailboxReader

SECONDS = 60
INCARNATION = b"one-life"


class Loop:
    """The consumer's loop, as far as it is of interest: its epoll, and what it was asked to do."""

    def __init__(self, reader: Reader) -> None:
        self.epoll = select.epoll()
        self.epoll.register(reader.connection.sock, select.EPOLLIN)
        self.asked: list[Callable[[], None]] = []

    @property
    def is_told(self) -> bool:
        """Whether it would wake up to read the socket."""
        return bool(self.epoll.poll(0))

    def run(self) -> None:
        """Do what it was asked to."""
        asked, self.asked = self.asked, []
        for action in asked:
            action()


class Actor:
    """An inbox that reads a connection's socket."""

    def __init__(self) -> None:
        self.wire = Reader()
        self.inbox = Inbox()
        self.loop = Loop(self.wire)
        self.wire.connection.on_calls = lambda _tag, _again, body: self.inbox.put(body)
        self.reader = self.inbox.reader = MailboxReader(
            self.wire.connection, self.loop.epoll, self.loop.asked.append, self.inbox.wake
        )

    def close(self) -> None:
        """Close the sockets."""
        self.wire.broker.close()
        self.wire.connection.transport.sock.close()
        self.loop.epoll.close()


@pytest.fixture
def actor() -> Iterator[Actor]:
    made = Actor()
    yield made
    made.close()


@pytest.fixture
def express(actor: Actor, directory: Path) -> Iterator[ExpressSender]:
    """Who sends to that actor by express."""
    made = ExpressSender(directory)
    actor.inbox.express = ExpressSocket(express_path(directory, INCARNATION))
    actor.inbox.take_express = actor.inbox.put
    yield made
    made.close()
    actor.inbox.express.close()


def while_it_waits(actor: Actor, action: Callable[[], None]) -> threading.Thread:
    """Do something as soon as the executor is in its wait."""

    def act() -> None:
        deadline = time.monotonic() + SECONDS
        while not actor.inbox._waiting:
            assert time.monotonic() < deadline, "the executor never waited"
        action()

    thread = threading.Thread(target=act)
    thread.start()
    return thread


def test_the_executor_reads_what_it_waits_for_and_the_loop_is_not_woken(actor: Actor) -> None:
    woken: list[bool] = []

    def send() -> None:
        woken.append(actor.loop.is_told)
        actor.wire.broker.sendall(delivered(b"one", 7))

    thread = while_it_waits(actor, send)
    assert actor.inbox.get(timeout=SECONDS) == b"one"
    thread.join()
    assert woken == [False]
    assert actor.loop.asked == []


def test_the_loop_reads_while_the_executor_does_not_wait(actor: Actor) -> None:
    actor.inbox.put(b"first")
    assert actor.inbox.get(timeout=SECONDS) == b"first"
    actor.wire.broker.sendall(delivered(b"second", 7))
    assert actor.loop.is_told
    actor.wire.connection.read_what_came()
    assert actor.inbox.get_nowait() == b"second"


def test_after_a_wait_the_loop_has_the_socket_again(actor: Actor) -> None:
    actor.wire.broker.sendall(delivered(b"one", 7))
    assert actor.inbox.get(timeout=SECONDS) == b"one"
    actor.wire.broker.sendall(delivered(b"two", 8))
    assert actor.loop.is_told


def test_a_wait_that_ends_in_vain_keeps_the_socket_for_the_next(actor: Actor) -> None:
    with pytest.raises(Empty):
        actor.inbox.get(timeout=0.01)
    actor.wire.broker.sendall(delivered(b"one", 7))
    assert not actor.loop.is_told
    assert actor.inbox.get(timeout=SECONDS) == b"one"


def test_who_has_no_time_to_wait_takes_what_has_come(actor: Actor) -> None:
    """As an executor that stood still for longer than it was to wait."""
    actor.wire.broker.sendall(delivered(b"one", 7))
    assert actor.inbox.get(timeout=0) == b"one"
    with pytest.raises(Empty):
        actor.inbox.get(timeout=0)


def test_who_puts_something_wakes_the_executor(actor: Actor) -> None:
    thread = while_it_waits(actor, lambda: actor.inbox.put("over"))
    assert actor.inbox.get(timeout=SECONDS) == "over"
    thread.join()


def test_what_is_no_call_is_the_loop_s_in_its_order(actor: Actor) -> None:
    actor.wire.broker.sendall(
        delivered(b"one", 7)
        + delivered(b"order", 8, task="celery_actors.order")
        + delivered(b"two", 9)
    )
    assert actor.inbox.get(timeout=SECONDS) == b"one"
    with pytest.raises(Empty):  # the order is before it, and the loop's
        actor.inbox.get(timeout=0.01)
    actor.loop.run()
    assert [kind for kind, _, _ in actor.wire.frames] == [1, 2, 3]
    assert actor.inbox.get(timeout=SECONDS) == b"two"


def test_the_executor_reads_again_after_the_loop_s_turn(actor: Actor) -> None:
    actor.wire.broker.sendall(delivered(b"order", 8, task="celery_actors.order"))
    with pytest.raises(Empty):
        actor.inbox.get(timeout=0.1)

    def send() -> None:
        actor.loop.run()
        actor.wire.broker.sendall(delivered(b"one", 9))

    thread = while_it_waits(actor, send)
    assert actor.inbox.get(timeout=SECONDS) == b"one"
    thread.join()


def test_a_lost_connection_is_the_loop_s(actor: Actor) -> None:
    actor.wire.broker.close()
    with pytest.raises(Empty):
        actor.inbox.get(timeout=0.1)
    assert actor.loop.is_told
    with pytest.raises(RecoverableConnectionError, match="disconnected"):
        actor.loop.run()


def test_a_closed_connection_is_read_by_nobody(actor: Actor) -> None:
    actor.reader.close()
    actor.wire.broker.sendall(delivered(b"one", 7))
    with pytest.raises(Empty):
        actor.inbox.get(timeout=0.01)
    assert actor.wire.calls == []


def test_a_socket_that_py_amqp_closed_is_not_touched(actor: Actor) -> None:
    assert actor.reader.take() >= 0
    actor.wire.connection.readable = False
    actor.reader.give()  # its number may mean another file by now
    assert actor.reader.take() == -1


def test_a_loop_that_has_let_go_of_the_socket_takes_nothing_else_along(actor: Actor) -> None:
    """A lost connection: the loop closes its epoll first, and the connection behind that."""
    actor.loop.epoll.close()
    thread = while_it_waits(actor, lambda: actor.inbox.put("from elsewhere"))
    assert actor.inbox.get(timeout=SECONDS) == "from elsewhere"
    thread.join()


def test_a_loop_that_lets_go_of_the_socket_during_a_wait_takes_nothing_else_along(
    actor: Actor,
) -> None:
    def let_go() -> None:
        actor.loop.epoll.unregister(actor.wire.connection.sock)
        actor.inbox.put("from elsewhere")

    thread = while_it_waits(actor, let_go)
    assert actor.inbox.get(timeout=SECONDS) == "from elsewhere"
    thread.join()
    with pytest.raises(Empty):
        actor.inbox.get(timeout=0.01)


def test_an_executor_that_waits_takes_what_comes_by_express(
    actor: Actor, express: ExpressSender
) -> None:
    thread = while_it_waits(actor, lambda: express.send(INCARNATION, b"one"))
    assert actor.inbox.get(timeout=SECONDS) == b"one"
    thread.join()
    assert actor.loop.asked == []


def test_what_is_in_the_mailbox_comes_before_what_came_by_express(
    actor: Actor, express: ExpressSender
) -> None:
    express.send(INCARNATION, b"last")
    actor.wire.broker.sendall(delivered(b"first", 7))
    assert actor.inbox.get(timeout=SECONDS) == b"first"
    actor.wire.broker.sendall(delivered(b"second", 8))  # the queue may have more and more
    assert actor.inbox.get(timeout=SECONDS) == b"second"
    assert actor.inbox.get(timeout=SECONDS) == b"last"


def test_by_express_nothing_comes_where_the_mailbox_is_not_read(
    actor: Actor, express: ExpressSender
) -> None:
    """Its connection may be lost, and the actor cut off."""
    actor.reader.close()
    express.send(INCARNATION, b"one")
    with pytest.raises(Empty):
        actor.inbox.get(timeout=0.01)


def test_where_the_connection_is_lost_nothing_is_taken_by_express(
    actor: Actor, express: ExpressSender
) -> None:
    """An incarnation that stood still for long may have been given up meanwhile."""
    express.send(INCARNATION, b"one")
    actor.wire.broker.close()
    with pytest.raises(Empty):
        actor.inbox.get(timeout=0.05)


def test_what_is_no_call_is_dealt_with_before_what_came_by_express(
    actor: Actor, express: ExpressSender
) -> None:
    express.send(INCARNATION, b"one")
    actor.wire.broker.sendall(delivered(b"an order", 7, task="celery_actors.order"))
    with pytest.raises(Empty):
        actor.inbox.get(timeout=0.05)
    actor.loop.run()
    assert actor.inbox.get(timeout=SECONDS) == b"one"
