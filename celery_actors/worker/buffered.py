"""A consumer connection that reads in large pieces.

py-amqp reads each frame in three calls of ``recv``, and sets the socket's timeout before
and after each: some eighteen system calls a message.  Here one ``recv`` takes what there
is, and frames that are complete in memory are parsed without touching the socket.  Only
for plain TCP; TLS has a buffer of its own and goes py-amqp's way.
"""

from __future__ import annotations

import errno
from struct import Struct
from typing import Any

from amqp.transport import TCPTransport
from kombu.transport import pyamqp

__all__ = ["BufferedConnection"]

_PIECE = 65536
_HEAD = Struct(">BHI")
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
    """Reads from the buffer first."""

    def Transport(  # noqa: N802 - py-amqp's name for its factory
        self, host: str, connect_timeout: Any, ssl: Any = False, *more: Any, **options: Any
    ) -> Any:
        """Return the transport: ours for plain TCP."""
        if ssl:
            return super().Transport(host, connect_timeout, ssl, *more, **options)
        return _BufferedTransport(host, connect_timeout, *more, **options)

    def drain_events(self, timeout: float | None = None) -> None:
        """Take in a message; where the loop asks (with a timeout), all that are whole in memory.

        The loop polls the socket before it runs what was asked of it meanwhile, and the socket
        says nothing of what was read already: a message left in memory would wait for the next
        one, or for a heartbeat.  Who waits for the answer to a method (without a timeout) may not
        be given more than that: what follows ``basic.consume-ok`` is for a consumer that is not
        there yet.
        """
        super().drain_events(timeout)
        if timeout is None:
            return
        transport = self.transport
        while isinstance(transport, _BufferedTransport) and transport.has_frame():
            self.on_inbound_frame(transport.read_frame())

    def blocking_read(self, timeout: float | None = None) -> Any:
        """Take in the next frame, from memory if it is there."""
        transport = self.transport
        if isinstance(transport, _BufferedTransport) and transport.has_frame():
            return self.on_inbound_frame(transport.read_frame())
        return super().blocking_read(timeout)
