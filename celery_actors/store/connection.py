"""A bare Redis connection: redis-py opens it, hiredis packs and parses.

The way of a call has two Redis exchanges in it, the commit and the push.  redis-py's
client costs about 50 µs around each; a bare socket with hiredis costs about 5.  URL
parsing, authentication and TLS stay redis-py's.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, cast

import hiredis
import redis
from redis.connection import UnixDomainSocketConnection, parse_url

from celery_actors.app_settings import without_password
from celery_actors.config import Settings
from celery_actors.exceptions import ConnectionFailed
from celery_actors.store.outage import is_lost
from celery_actors.store.patience import Patience, RedisUnavailable

__all__ = ["RedisConnection", "connect_redis", "explain_redis", "open_redis"]

_MOST_CONNECTIONS = 10_000
_SENTINEL_PORT = 26379
_MOST_PARTS = 1000  # in one sendmsg(): Linux takes 1,024
_UNCOPIED = 4096  # bytes of an argument that stays where it is

# Each connection would tell Redis which library it is of: two more round trips, and redis-py
# parses its own metadata anew for them (1.5 ms of an actor's start, which connects twice).
# With TLS they are made: their answers come behind the session tickets of TLS 1.3, which redis-py
# takes for an answer that nobody asked for ("Connection not ready") on a new connection.
_UNSAID: dict[str, Any] = (
    {"driver_info": None}
    if find_spec("redis.driver_info")
    else {"lib_name": None, "lib_version": None}  # before redis-py 7.2
)


def connect_redis(
    url: str, options: Mapping[str, Any] | None = None, timeout: float | None = None
) -> redis.Redis:
    """Return a redis-py client; connections open when first used.

    :param url: ``redis://`` or ``rediss://``, as redis-py reads it.
    :param options: the parameters of a connection, instead of what the URL says; with ``hosts``
        and ``sentinel`` (its ``master_name``, ``sentinel_kwargs``) where these are Sentinels.
    :param timeout: in seconds, of each command; ``None``: a command may take any time.
    """
    given: dict[str, Any] = dict(options or cast(Any, parse_url)(url))
    given = {"socket_connect_timeout": 5, "socket_keepalive": True, **given}
    if timeout is not None:
        given.update(socket_timeout=timeout, socket_connect_timeout=timeout)
    kind = given.get("connection_class", redis.Connection)
    if issubclass(kind, UnixDomainSocketConnection):
        for name in ("socket_connect_timeout", "socket_keepalive"):
            del given[name]
    # As many connections as threads ask at a time: an error there would be a call's.
    given.update(protocol=2, max_connections=_MOST_CONNECTIONS)
    if not issubclass(kind, redis.SSLConnection):
        given.update(_UNSAID)
    hosts = given.pop("hosts", None)
    if hosts is None:
        return redis.Redis.from_pool(redis.ConnectionPool(**given))
    sentinel = dict(given.pop("sentinel", {}))
    watchers: Any = cast(Any, redis.Sentinel)(
        [(host.get("host") or "127.0.0.1", host.get("port") or _SENTINEL_PORT) for host in hosts],
        min_other_sentinels=sentinel.get("min_other_sentinels", 0),
        sentinel_kwargs={
            "socket_connect_timeout": timeout or 5,
            "socket_timeout": timeout or 5,
            **sentinel.get("sentinel_kwargs", {}),
        },
    )
    master: redis.Redis = watchers.master_for(sentinel.get("master_name", "mymaster"), **given)
    return master


def open_redis(
    settings: Settings, *, patience: float | None = None, timeout: float | None = None
) -> redis.Redis:
    """Return a redis-py client for the configured Redis.

    :param patience: how long a command is repeated in an outage, in seconds; ``None``: redis-py
        repeats it a few times after a lost connection.
    :param timeout: in seconds, of each command; ``None``: a command may take any time.
    """
    client = connect_redis(settings.result_backend, settings.redis_options, timeout)
    if patience is not None:
        client.set_retry(Patience(settings.result_backend, lambda: patience))
    return client


def explain_redis(settings: Settings, error: Exception) -> ConnectionFailed:
    """Turn a connection error into one that says what was tried and what to do."""
    if isinstance(error, RedisUnavailable):
        if not is_lost(error.__cause__):
            return error
        error = cast(Exception, error.__cause__)
    text = str(error)
    if isinstance(error, redis.AuthenticationError) or "NOAUTH" in text or "WRONGPASS" in text:
        hint = "it refused the password: check the one in result_backend or CELERY_RESULT_BACKEND"
    elif "CERTIFICATE_VERIFY_FAILED" in text:
        hint = (
            "its certificate was refused: ssl_ca_certs (in the URL, or in redis_backend_use_ssl) "
            "must name the authority that signed it, and the host in result_backend must be a "
            "name in the certificate"
        )
    elif "SSL" in text or isinstance(error.__cause__, ssl.SSLError):
        hint = (
            "TLS failed: check that result_backend names the port for TLS, and ssl_certfile and "
            "ssl_keyfile (in the URL, or in redis_backend_use_ssl)"
        )
    else:
        hint = (
            "check that it runs and that result_backend or CELERY_RESULT_BACKEND names it "
            "(redis://:password@host:port/db; a port for TLS needs rediss://)"
        )
    address = without_password(settings.result_backend)
    return ConnectionFailed(f"cannot use Redis at {address}: {error}; {hint}")


class RedisConnection:
    """One socket to Redis, for one thread at a time."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._connection: Any = None
        self._sock: socket.socket | None = None
        self._reader = hiredis.Reader()

    def open(self) -> None:
        """Connect (again), authenticated; replies that were under way are lost.

        :raises redis.RedisError: Redis can't be reached or refuses.
        """
        self.close()
        # As the pool makes its own, but not one of them: it counts what it has made, and after a
        # hundred (redis-py's default) it makes no more.
        pool = self._client.connection_pool
        connection: Any = pool.connection_class(**pool.connection_kwargs)
        connection.connect()
        self._connection = connection
        sock: socket.socket = connection._sock
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._reader = hiredis.Reader()

    @property
    def is_open(self) -> bool:
        """Whether there is a socket."""
        return self._sock is not None

    def fileno(self) -> int:
        """Return the socket's file descriptor, -1 when closed."""
        return self._sock.fileno() if self._sock is not None else -1

    def send(self, *command: Any) -> None:
        """Send a command without waiting for its reply.

        :raises OSError: the connection is lost.
        """
        if self._sock is None:
            raise ConnectionResetError("not connected to Redis")
        self._sock.sendall(hiredis.pack_command(command))

    def send_all(self, commands: Iterable[Sequence[Any]]) -> None:
        """Send commands in one go, without waiting for their replies.

        Large arguments are not copied: a copy of some hundred kilobytes is fresh memory each time,
        and to have it mapped costs more than to write it.

        :raises OSError: the connection is lost.
        """
        if self._sock is None:
            raise ConnectionResetError("not connected to Redis")
        parts: list[bytes] = []
        for command in commands:
            _pack(command, parts)
        if isinstance(self._sock, ssl.SSLSocket):  # takes no parts
            self._sock.sendall(b"".join(parts))
            return
        for at in range(0, len(parts), _MOST_PARTS):
            _send_parts(self._sock, parts[at : at + _MOST_PARTS])

    def reply(self, timeout: float | None = None) -> Any:
        """Wait for the next reply; an error reply is returned, not raised.

        :raises TimeoutError: nothing came within ``timeout`` seconds.
        :raises OSError: the connection is lost.
        """
        while True:
            value = self._reader.gets()
            if value is not False:
                return value
            if timeout is not None and not self.readable(timeout):
                raise TimeoutError("no reply from Redis")
            self._fill()

    def replies(self) -> list[Any]:
        """Read what has arrived; call it when the socket is readable.

        :raises OSError: the connection is lost.
        """
        self._fill()
        found = []
        while (value := self._reader.gets()) is not False:
            found.append(value)
        return found

    def readable(self, timeout: float | None = 0.0) -> bool:
        """Whether there is something to read within ``timeout`` seconds; ``None``: no end.

        :raises OSError: the connection is lost.
        """
        sock = self._sock
        if sock is None or (number := sock.fileno()) < 0:  # another thread may have closed it
            raise ConnectionResetError("not connected to Redis")
        poll = select.poll()
        poll.register(number, select.POLLIN)
        return bool(poll.poll(None if timeout is None else timeout * 1000))

    def _fill(self) -> None:
        if self._sock is None:
            raise ConnectionResetError("not connected to Redis")
        data = self._sock.recv(262144)
        if not data:
            raise ConnectionResetError("Redis closed the connection")
        self._reader.feed(data)

    def close(self) -> None:
        """Close the socket."""
        connection, self._connection, self._sock = self._connection, None, None
        if connection is not None:
            connection.disconnect()

    def abandon(self) -> None:
        """Forget the socket without closing it: it belongs to the parent of this fork."""
        if self._sock is not None:
            self._sock.detach()
        self._connection = self._sock = None


def _pack(command: Sequence[Any], parts: list[bytes]) -> None:
    """Append a command in Redis's protocol; its large arguments are parts of their own."""
    if not any(type(word) is bytes and len(word) >= _UNCOPIED for word in command):
        parts.append(hiredis.pack_command(tuple(command)))
        return
    small = [b"*%d\r\n" % len(command)]
    for word in command:
        data = word if type(word) is bytes else str(word).encode()
        small.append(b"$%d\r\n" % len(data))
        if len(data) < _UNCOPIED:
            small += (data, b"\r\n")
        else:
            parts += (b"".join(small), data)
            small = [b"\r\n"]
    parts.append(b"".join(small))


def _send_parts(sock: socket.socket, parts: list[bytes]) -> None:
    sent = sock.sendmsg(parts)
    for at, part in enumerate(parts):
        if sent < len(part):  # a signal came in between, or it is more than the system takes
            sock.sendall(b"".join((memoryview(part)[sent:], *parts[at + 1 :])))
            return
        sent -= len(part)
