"""Writing to a RabbitMQ that reads nothing."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from celery_actors.client import transport as module
from celery_actors.client.transport import _Behind, _PlainTransport, _TlsTransport

DATA = bytes(range(256)) * 32768  # 8 MiB, more than a socket keeps


def read_all(sock: Any, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = sock.recv(1 << 20)
        assert piece, "the connection was closed"
        data += piece
    return bytes(data)


def _plain() -> tuple[_Behind, Any]:
    ours, theirs = socket.socketpair()
    made = _PlainTransport("localhost")
    made.sock = ours
    return made, theirs


def _tls(folder: Path) -> tuple[_Behind, Any]:
    key, certificate = folder / "key.pem", folder / "cert.pem"
    options = ["-nodes", "-days", "1", "-subj", "/CN=localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", *options]
    subprocess.run(
        [*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True
    )
    ours, theirs = socket.socketpair()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    accepted: list[Any] = []
    thread = threading.Thread(
        target=lambda: accepted.append(server.wrap_socket(theirs, server_side=True))
    )
    thread.start()
    made = _TlsTransport("localhost")
    made.sock = client.wrap_socket(ours)
    thread.join()
    return made, accepted[0]


@pytest.fixture(params=["plain", "TLS"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[_Behind, Any]]:
    transport, theirs = _plain() if request.param == "plain" else _tls(tmp_path)
    yield transport, theirs
    transport.sock.close()
    theirs.close()


def test_what_a_broker_does_not_read_is_kept_and_comes_in_order(pair: tuple[_Behind, Any]) -> None:
    transport, theirs = pair
    reused = bytearray(b"second")
    transport.write(DATA)  # returns, though nobody reads
    transport.write(memoryview(reused))
    reused[:] = b"xxxxxx"  # py-amqp writes each frame into the same buffer
    transport.write(b"third")
    assert transport.rest
    assert not transport.catch_up()
    got: list[bytes] = []
    reader = threading.Thread(
        target=lambda: got.append(read_all(theirs, len(DATA) + len(b"secondthird")))
    )
    reader.start()
    assert transport.catch_up(patience=60)
    reader.join(60)
    assert got == [DATA + b"secondthird"]
    transport.write(b"fourth")
    assert not transport.rest
    assert read_all(theirs, 6) == b"fourth"


def test_what_is_kept_is_not_copied_again(pair: tuple[_Behind, Any]) -> None:
    """Of a large message each attempt writes a little, so that copies would be quadratic."""
    transport, theirs = pair
    transport.write(DATA)
    (before,) = transport.rest
    read_what_is_there(theirs)
    assert not transport.catch_up()
    (after,) = transport.rest
    assert len(after) < len(before)
    assert after.obj is before.obj


def read_what_is_there(sock: Any) -> None:
    sock.settimeout(0)
    with suppress(BlockingIOError, ssl.SSLWantReadError):
        while sock.recv(1 << 20):
            pass
    sock.settimeout(None)


def test_a_busy_broker_sets_the_pace(
    pair: tuple[_Behind, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_GRACE", 60.0)
    transport, theirs = pair
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(read_all(theirs, len(DATA))))
    reader.start()
    transport.write(DATA)
    assert not transport.rest, "the writer waited for the reader"
    reader.join(60)
    assert got == [DATA]


def test_a_lost_connection_is_said(pair: tuple[_Behind, Any]) -> None:
    transport, theirs = pair
    transport.write(DATA)
    theirs.close()
    with pytest.raises(OSError, match="lost"):
        transport.catch_up(patience=60)
