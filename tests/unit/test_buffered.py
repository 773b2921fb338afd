"""The consumer's connection: messages with calls are recognized as they lie in memory."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from struct import pack
from types import SimpleNamespace

import pytest

from celery_actors.client.mailbox import Mailbox
from celery_actors.protocol.signing import Signer
from celery_actors.worker.buffered import BufferedConnection

CHANNEL = 1


def published(body: bytes, task: str = "celery_actors.calls") -> bytes:
    """What a client writes for one message, without the method's frame."""
    written: list[bytes] = []
    mailbox = Mailbox("amqp://", Signer(b"k"), lambda queue: None)
    mailbox._channel = SimpleNamespace(channel_id=CHANNEL)
    mailbox._connection = SimpleNamespace(
        frame_max=131072, transport=SimpleNamespace(write=written.append)
    )
    mailbox.publish("actor.1", body, task)
    (message,) = written
    method = int.from_bytes(message[3:7], "big")
    return message[7 + method + 1 :]


def delivered(
    body: bytes, tag: int, redelivered: bool = False, task: str = "celery_actors.calls"
) -> bytes:
    """What the broker writes for that message."""
    payload = pack(">HHB3sQBB8s", 60, 60, 3, b"tag", tag, redelivered, 0, b"\7actor.1")
    head = pack(">BHI", 1, CHANNEL, len(payload))
    return head + payload + b"\xce" + published(body, task)


class Reader:
    """A connection over a pair of sockets, that notes what it hands on, and how."""

    def __init__(self) -> None:
        self.broker, ours = socket.socketpair()
        self.connection = BufferedConnection()
        transport = self.connection.Transport("127.0.0.1", 1)
        transport.sock = ours
        transport.connected = True
        transport._setup_transport()
        self.connection._transport = transport
        self.calls: list[tuple[int, bool, bytes]] = []
        self.frames: list[tuple[int, int, bytes]] = []
        self.connection.calls_channel = CHANNEL
        self.connection.on_calls = lambda *calls: self.calls.append(calls)
        self.connection.on_inbound_frame = self.frames.append

    def read(self, data: bytes) -> None:
        """Let the broker write ``data`` and the connection read it."""
        self.broker.sendall(data)
        self.connection.read_what_came()


@pytest.fixture
def reader() -> Iterator[Reader]:
    made = Reader()
    yield made
    made.broker.close()
    made.connection.transport.sock.close()


def test_all_messages_that_have_come_are_taken_at_once(reader: Reader) -> None:
    reader.read(delivered(b"one", 7) + delivered(b"two", 8, redelivered=True))
    assert reader.calls == [(7, False, b"one"), (8, True, b"two")]
    assert reader.frames == []


def test_a_message_in_pieces_is_taken_once(reader: Reader) -> None:
    data = delivered(b"one", 7) + delivered(b"two" * 50, 8)
    for at in range(0, len(data), 11):
        reader.read(data[at : at + 11])
    assert reader.calls == [(7, False, b"one"), (8, False, b"two" * 50)]
    assert reader.frames == []


def test_a_cut_message_is_not_overtaken(reader: Reader) -> None:
    data = delivered(b"one", 7)
    reader.read(data[:-1])
    assert reader.calls == []
    reader.read(data[-1:] + delivered(b"order", 8, task="celery_actors.order"))
    assert reader.calls == [(7, False, b"one")]
    assert [kind for kind, _, _ in reader.frames] == [1, 2, 3]


def test_other_messages_go_py_amqp_s_way(reader: Reader) -> None:
    reader.read(delivered(b"order", 7, task="celery_actors.order") + delivered(b"calls", 8))
    assert [kind for kind, _, _ in reader.frames] == [1, 2, 3]
    assert reader.calls == [(8, False, b"calls")]


def test_messages_on_another_channel_go_py_amqp_s_way(reader: Reader) -> None:
    reader.connection.calls_channel = CHANNEL + 1
    reader.read(delivered(b"one", 7))
    assert reader.calls == []
    assert [frame[:2] for frame in reader.frames] == [(1, CHANNEL), (2, CHANNEL), (3, CHANNEL)]


def test_a_large_message_goes_py_amqp_s_way(reader: Reader) -> None:
    body = b"x" * 200_000
    writer = threading.Thread(target=reader.broker.sendall, args=(delivered(body, 7),))
    writer.start()
    while sum(len(frame) for kind, _, frame in reader.frames if kind == 3) < len(body):
        reader.connection.read_what_came()
    writer.join()
    assert reader.calls == []
    assert b"".join(frame for kind, _, frame in reader.frames if kind == 3) == body


def test_a_connection_that_the_broker_closed_is_lost(reader: Reader) -> None:
    reader.broker.shutdown(socket.SHUT_WR)
    with pytest.raises(OSError, match="unexpectedly closed"):
        reader.connection.read_what_came()


def test_heartbeats_see_that_something_came(reader: Reader) -> None:
    before = reader.connection.bytes_recv
    reader.read(delivered(b"one", 7))
    assert reader.connection.bytes_recv > before


def test_nobody_else_reads_while_a_message_is_drained(reader: Reader) -> None:
    held = []

    def take(frame: tuple[int, int, bytes]) -> bool:
        reader.frames.append(frame)
        executor = threading.Thread(
            target=lambda: held.append(not reader.connection.reading.acquire(blocking=False))
        )
        executor.start()
        executor.join()
        return True

    reader.connection.on_inbound_frame = take
    order = delivered(b"order", 7, task="celery_actors.order")
    reader.broker.sendall(order + order)
    reader.connection.drain_events(timeout=1)
    assert [kind for kind, _, _ in reader.frames] == [1, 2, 3, 1, 2, 3]
    assert held == [True] * 6
