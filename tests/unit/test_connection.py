"""Commands on their way to Redis: large arguments are not copied, and nothing is lost."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Sequence
from typing import Any

import hiredis
import pytest
import redis

from celery_actors.store.connection import RedisConnection


def over_tls(one: socket.socket, other: socket.socket) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    """Both ends of a connection over TLS without certificates."""
    ends: list[ssl.SSLSocket] = []

    def wrap(sock: socket.socket, server: bool) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("AECDH-AES256-SHA:@SECLEVEL=0")
        ends.append(context.wrap_socket(sock, server_side=server))

    thread = threading.Thread(target=wrap, args=(other, True))
    thread.start()
    wrap(one, False)
    thread.join(60)
    mine, theirs = sorted(ends, key=lambda end: end.server_side)
    return mine, theirs


def what_came(sock: socket.socket, count: int) -> list[Any]:
    """Read so many commands."""
    reader, found = hiredis.Reader(), []
    sock.settimeout(60)
    while len(found) < count:
        data = sock.recv(65536)
        assert data, "the connection was closed"
        reader.feed(data)
        while (command := reader.gets()) is not False:
            found.append(command)
    return found


COMMANDS: Sequence[Sequence[Any]] = (
    ("MULTI",),
    ("HSET", "key", b"\0field", os.urandom(9000), b"other", b"x" * 4096, b"last", b"y" * 4095),
    ("EVALSHA", "sha", 0, "", 17, b""),
    ("HSET", "many", *(os.urandom(5000) for _ in range(2000))),
    ("SET", "text", "ä" * 5000),
    ("EXEC",),
)


@pytest.mark.parametrize("tls", [False, True])
def test_commands_arrive_whole(tls: bool) -> None:
    one, other = socket.socketpair()
    if tls:
        one, other = over_tls(one, other)
    connection = RedisConnection(redis.Redis())
    connection._sock = one
    sender = threading.Thread(target=connection.send_all, args=(COMMANDS,))
    with one, other:
        sender.start()
        found = what_came(other, len(COMMANDS))
        sender.join(60)
    assert found == [
        [word if isinstance(word, bytes) else str(word).encode() for word in command]
        for command in COMMANDS
    ]


def test_what_the_system_takes_in_parts_arrives_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    class Reluctant(socket.socket):
        def sendmsg(self, buffers: Any, *_: Any) -> int:
            return self.send(b"".join(buffers)[:5000])

    one, other = socket.socketpair()
    reluctant = Reluctant(one.family, one.type, fileno=one.detach())
    connection = RedisConnection(redis.Redis())
    connection._sock = reluctant
    with reluctant, other:
        connection.send_all(COMMANDS[:3])
        found = what_came(other, 3)
    assert found[1][3] == COMMANDS[1][3]
    assert found[2] == [b"EVALSHA", b"sha", b"0", b"", b"17", b""]
