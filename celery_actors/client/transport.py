"""A connection to RabbitMQ whose writes never block for long.

A broker under a memory or disk alarm reads nothing more from those who publish, for minutes or
hours, and the kernel then blocks whoever writes.  Here a write that the kernel does not take
keeps the rest in memory, in order, and returns.  The connection is then *behind*: nothing more
should be written but what is small, until :meth:`PublishingConnection.catch_up` has written
the rest.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections import deque
from time import monotonic
from typing import Any, ClassVar

from amqp.transport import SSLTransport, TCPTransport
from kombu.transport import pyamqp

__all__ = ["PublishingConnection"]

_GRACE = 0.1
"""Seconds to wait for a busy broker: until then the publisher goes at its pace."""
_PIECE = 16384  # of one write to a TLS socket: a record


class _Behind:
    """What both transports have: a write keeps what the kernel does not take."""

    sock: Any

    def __init__(self, *args: Any, **options: Any) -> None:
        self.rest: deque[memoryview] = deque()
        super().__init__(*args, **options)

    def write(self, data: bytes | memoryview) -> None:
        """Write data, or keep what the kernel does not take now.

        :raises OSError: the connection is lost.
        """
        sent = 0 if self.rest else self._send(memoryview(data), _GRACE)
        if sent < len(data):
            self.rest.append(memoryview(bytes(data[sent:])))  # the writer uses its buffer again

    def catch_up(self, patience: float = 0.0) -> bool:
        """Write what was kept; whether that is all.

        :param patience: how long to wait for a kernel that takes nothing, in seconds.
        :raises OSError: the connection is lost.
        """
        while self.rest:
            data = self.rest[0]
            sent = self._send(data, patience)
            if sent < len(data):
                # No copy: of a large message each attempt writes a little. And the same bytes come
                # first again, as TLS wants it.
                self.rest[0] = data[sent:]
                return False
            self.rest.popleft()
        return True

    def _send(self, data: memoryview, patience: float) -> int:
        """Write what the kernel takes within ``patience`` seconds; returns how many bytes."""
        sent, deadline = 0, 0.0
        try:
            while sent < len(data):
                taken = self._send_now(data[sent:])
                sent += taken
                if taken:
                    continue
                now = monotonic()
                deadline = deadline or now + patience
                if now >= deadline:
                    break
                poll = select.poll()
                poll.register(self.sock, select.POLLOUT)
                poll.poll((deadline - now) * 1000)
        except (OSError, ValueError) as error:
            self.connected = False
            raise OSError(f"the connection to RabbitMQ was lost: {error}") from error
        return sent

    def _send_now(self, data: memoryview) -> int:
        raise NotImplementedError


class _PlainTransport(_Behind, TCPTransport):  # type: ignore[misc]  # untyped base
    def _send_now(self, data: memoryview) -> int:
        try:
            return int(self.sock.send(data, socket.MSG_DONTWAIT))
        except BlockingIOError:
            return 0


class _TlsTransport(_Behind, SSLTransport):  # type: ignore[misc]
    def _send_now(self, data: memoryview) -> int:
        before = self.sock.gettimeout()
        self.sock.settimeout(0)
        try:
            return int(self.sock.send(data[:_PIECE]))
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return 0
        finally:
            self.sock.settimeout(before)


class PublishingConnection(pyamqp.Connection):  # type: ignore[misc]
    """A connection of a process that only publishes.

    ``connection.blocked`` is not negotiated, since py-amqp then makes four system calls a
    publish instead of one.
    """

    negotiate_capabilities: ClassVar[dict[str, bool]] = {
        "consumer_cancel_notify": True,
        "authentication_failure_close": True,
    }

    def Transport(  # noqa: N802 - py-amqp's name for its factory
        self, host: str, connect_timeout: Any, ssl: Any = False, *more: Any, **options: Any
    ) -> Any:
        """Return the transport: ours."""
        names = ("read_timeout", "write_timeout", "socket_settings")
        options.update(zip(names, more, strict=False))
        # Heartbeats tell whether the broker is there. The kernel would close a connection of which
        # the broker has read nothing for py-amqp's one second.
        settings = {socket.TCP_USER_TIMEOUT: 0, **(options.get("socket_settings") or {})}
        options["socket_settings"] = settings
        if ssl:
            return _TlsTransport(host, connect_timeout=connect_timeout, ssl=ssl, **options)
        return _PlainTransport(host, connect_timeout=connect_timeout, **options)

    @property
    def is_behind(self) -> bool:
        """Whether something is kept that the kernel did not take."""
        transport = self._transport
        return transport is not None and bool(transport.rest)

    def catch_up(self, patience: float = 0.0) -> bool:
        """Write what was kept; whether that is all.

        :param patience: how long to wait for a kernel that takes nothing, in seconds.
        :raises OSError: the connection is lost.
        """
        transport = self._transport
        return transport is None or transport.catch_up(patience)
