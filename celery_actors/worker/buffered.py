"""A consumer connection that reads in large pieces.

py-amqp reads each frame in three calls of ``recv``, and sets the socket's timeout before
and after each: some eighteen system calls a message.  Here one ``recv`` takes what there
is, and frames that are complete in memory are parsed without touching the socket.  Only
for plain TCP; TLS has a buffer of its own and goes py-amqp's way.

Messages with calls all have the same properties: their three frames are recognized as
they lie in memory and handed to :attr:`BufferedConnection.on_calls`, past the objects that
py-amqp, kombu and Celery make of a message (100 µs of each).  Whatever else comes goes
their way.
"""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable
from struct import Struct
from typing import Any

from amqp import Message
from amqp.exceptions import RecoverableConnectionError
from amqp.transport import TCPTransport
from kombu.transport import pyamqp

from celery_actors.protocol.calls import CALLS_TASK, CONTENT_TYPE

__all__ = ["BufferedConnection", "OnCalls", "read_when_readable"]

OnCalls = Callable[[int, bool, bytes], None]
"""Takes a message with calls: delivery tag, whether it was redelivered, body."""

CUT = (0, False, b"")
"""Stands for a message whose end has not come (compared by identity)."""

_PIECE = 262144
_HEAD = Struct(">BHI")
_METHOD = Struct(">BHIHHB")  # of a method's frame: head, class, method, length of a short string
_TAG = Struct(">QB")
_CONTENT = Struct(">BHIHHQ")  # of a header's frame: head, class, weight, size of the body
_DELIVER = (60, 60)
_END = 0xCE
# As client.mailbox publishes them; RabbitMQ passes them on as they are.
_PROPERTIES: bytes = Message(
    "", content_type=CONTENT_TYPE, delivery_mode=1, application_headers={"task": CALLS_TASK}
)._serialize_properties()
_AGAIN = (errno.EAGAIN, errno.EINTR)


class _BufferedTransport(TCPTransport):  # type: ignore[misc]  # untyped base
    """Keeps what was read beyond the frame at hand.

    ``_read_buffer`` is what py-amqp's own code reads and, after a timeout in the middle of
    a frame, restores.
    """

    _data = b""
    _at = 0

    @property
    def _read_buffer(self) -> bytes:
        return self._data[self._at :]

    @_read_buffer.setter
    def _read_buffer(self, data: bytes) -> None:
        self._data, self._at = bytes(data), 0

    def has_frame(self) -> bool:
        """Whether a whole frame is in memory."""
        left = len(self._data) - self._at
        if left < _HEAD.size + 1:
            return False
        size: int = _HEAD.unpack_from(self._data, self._at)[2]
        return left >= _HEAD.size + size + 1

    def next_calls(self, channel: int) -> tuple[int, bool, bytes] | None:
        """Take a whole message with calls, if one is next: tag, redelivered, body.

        Its first frame is in memory (:meth:`has_frame`).

        :returns: ``None`` where something else is next; ``CUT`` where it is such a message as
            far as it is here.
        """
        data, at = self._data, self._at
        here = len(data)
        if here - at < _METHOD.size:  # shorter than the first frame of a delivery
            return None
        *method, length = _METHOD.unpack_from(data, at)
        if (method[0], method[1], *method[3:]) != (1, channel, *_DELIVER):
            return None
        header = at + _HEAD.size + method[2] + 1
        last = header + _CONTENT.size + len(_PROPERTIES)
        start = last + 1 + _HEAD.size
        if here < start:
            return CUT
        content = _CONTENT.unpack_from(data, header)
        body = _HEAD.unpack_from(data, last + 1)
        # A body of several frames is put together by py-amqp.
        if (
            content[:2] != (2, channel)
            or data[last - len(_PROPERTIES) : last] != _PROPERTIES
            or body != (3, channel, content[5])
            or not data[header - 1] == data[last] == _END
        ):
            return None
        end = start + body[2]
        if here <= end or data[end] != _END:
            return CUT if here <= end else None
        tag, redelivered = _TAG.unpack_from(data, at + _METHOD.size + length)
        self._at = end + 1
        return tag, bool(redelivered & 1), data[start:end]

    def fill(self) -> None:
        """Read what has arrived, without waiting."""
        try:
            piece = self.sock.recv(_PIECE, socket.MSG_DONTWAIT)
        except OSError as error:
            if error.errno in _AGAIN:
                return
            self.connected = False
            raise
        if not piece:
            self.connected = False
            raise OSError("Server unexpectedly closed connection")
        self._data, self._at = self._data[self._at :] + piece, 0

    def _read(self, n: int, initial: bool = False, _errnos: Any = _AGAIN) -> bytes:
        """Return exactly ``n`` bytes."""
        while len(self._data) - self._at < n:
            missing = n - (len(self._data) - self._at)
            try:
                piece = self._quick_recv(max(missing, _PIECE))
            except OSError as error:
                if error.errno in _errnos:
                    if initial and self.raise_on_initial_eintr:
                        raise TimeoutError from error
                    continue
                raise
            if not piece:
                raise OSError("Server unexpectedly closed connection")
            self._data, self._at = self._data[self._at :] + piece, 0
        start, self._at = self._at, self._at + n
        return self._data[start : self._at]


class BufferedConnection(pyamqp.Connection):  # type: ignore[misc]
    """Reads from the buffer first.

    :ivar on_calls: takes the messages with calls that come on channel ``calls_channel``.
    :ivar reading: held by the thread that reads, the consumer's or the executor's (see
        celery_actors.worker.inbox), until what it read was dealt with.
    :ivar readable: False once the socket is closed; its number may then mean another.
    """

    on_calls: OnCalls | None = None
    calls_channel = 0
    readable = True

    def __init__(self, *args: Any, **options: Any) -> None:
        # What is dealt with may itself wait for an answer.
        self.reading = threading.RLock()
        super().__init__(*args, **options)

    def collect(self) -> None:
        """Close the socket."""
        with self.reading:
            self.readable = False
            super().collect()

    def connect(self, *args: Any, **options: Any) -> Any:
        """Open the connection (again)."""
        self.readable = True
        return super().connect(*args, **options)

    def Transport(  # noqa: N802 - py-amqp's name for its factory
        self, host: str, connect_timeout: Any, ssl: Any = False, *more: Any, **options: Any
    ) -> Any:
        """Return the transport: ours for plain TCP."""
        if ssl:
            return super().Transport(host, connect_timeout, ssl, *more, **options)
        return _BufferedTransport(host, connect_timeout, *more, **options)

    @property
    def in_memory(self) -> bool:
        """Whether what was read is kept in memory of ours (not of TLS)."""
        return isinstance(self.transport, _BufferedTransport)

    def drain_events(self, timeout: float | None = None) -> None:
        """Take in a message; where the loop asks (with a timeout), all that are whole in memory.

        The loop polls the socket before it runs what was asked of it meanwhile, and the socket
        says nothing of what was read already: a message left in memory would wait for the next
        one, or for a heartbeat.  Who waits for the answer to a method (without a timeout) may not
        be given more than that: what follows ``basic.consume-ok`` is for a consumer that is not
        there yet.

        Celery does this once, with a tenth of a second, when it begins its loop.  The executor may
        read by then: under :attr:`reading`, so that neither takes what the other is taking.
        """
        with self.reading:
            super().drain_events(timeout)
            if timeout is None:
                return
            transport = self.transport
            while isinstance(transport, _BufferedTransport) and transport.has_frame():
                self.on_inbound_frame(transport.read_frame())

    def blocking_read(self, timeout: float | None = None) -> Any:
        """Take in the next frame, from memory if it is there."""
        with self.reading:
            transport = self.transport
            if isinstance(transport, _BufferedTransport) and transport.has_frame():
                return self.on_inbound_frame(transport.read_frame())
            return super().blocking_read(timeout)

    def read_what_came(self) -> None:
        """Take in all frames that have arrived.  The socket is readable.

        :raises OSError: the connection is lost.
        """
        with self.reading:
            transport = self.transport
            if not isinstance(transport, _BufferedTransport):
                self._drain()
                return
            transport.fill()
            while not self.take_calls() and transport is self.transport:
                self.on_inbound_frame(transport.read_frame())

    def read_calls(self) -> bool:
        """Take in the messages with calls that have arrived.  Under :attr:`reading`.

        :returns: False when it came upon something else, which is next to be read.
        :raises OSError: the connection is lost.
        """
        transport = self.transport
        if not isinstance(transport, _BufferedTransport):
            return False
        transport.fill()
        return self.take_calls()

    def take_calls(self) -> bool:
        """Take the messages with calls that are in memory.  Under :attr:`reading`.

        :returns: False when it came upon something else, which is next to be read.
        """
        transport, on_calls, channel = self.transport, self.on_calls, self.calls_channel
        while transport.has_frame():
            calls = transport.next_calls(channel) if on_calls is not None else None
            if calls is CUT:
                break
            if calls is None or on_calls is None:
                return False
            self.bytes_recv += 1  # what the heartbeat looks at
            on_calls(*calls)
        return True

    def _drain(self) -> None:
        try:
            while True:
                self.drain_events(timeout=0)
        except TimeoutError:
            return


def read_when_readable(connection: BufferedConnection, _loop: Any) -> None:
    """What the event loop does when a connection's socket is readable.

    Unlike kombu's reader it takes in all that is there, and doesn't try once more whether
    there is nothing left: the loop says so.
    """
    if not connection.connected:
        raise RecoverableConnectionError("Socket was disconnected")
    connection.read_what_came()
