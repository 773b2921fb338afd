"""Whether the servers of a cluster serve: found out by connecting to them."""

from __future__ import annotations

import socket
from urllib.parse import unquote, urlsplit

_TIMEOUT_SECONDS = 5.0


def redis_answers(url: str) -> bool:
    """Whether Redis at the URL takes the password and answers a PING.

    Spoken by hand: importing a client library takes longer than Redis takes to start.
    """
    parts = urlsplit(url)
    password = unquote(parts.password or "")
    try:
        with socket.create_connection(
            (parts.hostname or "127.0.0.1", parts.port or 6379), timeout=_TIMEOUT_SECONDS
        ) as connection:
            command = (_resp("AUTH", password) if password else b"") + _resp("PING")
            connection.sendall(command)
            reader = connection.makefile("rb")
            if password and reader.readline() != b"+OK\r\n":
                return False
            return reader.readline() == b"+PONG\r\n"
    except OSError:
        return False


def rabbitmq_answers(url: str) -> bool:
    """Whether RabbitMQ at the URL accepts an authenticated connection."""
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 5672
    try:
        # Cheaper than a client's failed attempt, and this is asked many times.
        socket.create_connection((host, port), timeout=_TIMEOUT_SECONDS).close()
    except OSError:
        return False

    import amqp

    connection = amqp.Connection(
        host=f"{host}:{port}",
        userid=unquote(parts.username or "guest"),
        password=unquote(parts.password or "guest"),
        virtual_host=unquote(parts.path[1:]) or "/",
        connect_timeout=_TIMEOUT_SECONDS,
        read_timeout=_TIMEOUT_SECONDS,
    )
    try:
        connection.connect()
    except (OSError, amqp.exceptions.AMQPError):
        # The listener may open before the node serves: refused now is not refused for good.
        return False
    connection.close()
    return True


def _resp(*words: str) -> bytes:
    parts = [f"*{len(words)}\r\n".encode()]
    for word in words:
        data = word.encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(data), data))
    return b"".join(parts)
