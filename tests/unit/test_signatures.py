"""PROTOCOL, Security and Shared memory: every field is bound by the signature."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from celery_actors.exceptions import TamperedError
from celery_actors.ids import object_id
from celery_actors.protocol.calls import decode_calls, encode_call, encode_calls
from celery_actors.protocol.cursors import Cursor
from celery_actors.protocol.orders import Order, OrderKind, decode_order, encode_order
from celery_actors.protocol.places import Notice, Place, decode_notice, encode_notice
from celery_actors.protocol.signing import Signer
from celery_actors.protocol.values import (
    Pushed,
    decode_push,
    decode_value,
    encode_push,
    encode_value,
)
from celery_actors.serialization import Dumped
from celery_actors.store.codec import Codec
from celery_actors.store.shm import SharedMemoryStore

SIGNER = Signer(b"k" * 32)
ACTOR, OTHER = b"a" * 16, b"b" * 16
CALLER = b"c" * 8
OID = object_id(CALLER, 7)

CALLS = encode_calls(
    SIGNER, ACTOR, CALLER, 3, [encode_call(7, 6, 5, 2, 1, b"method", b"payload")] * 2
)
PUSH = encode_push(SIGNER, CALLER, ACTOR, Cursor(9), [Pushed(7, 0, b"value"), Pushed(8, 0, None)])
ORDER = encode_order(SIGNER, "queue", Order(OrderKind.START, "ab", "cd"))
VALUE = encode_value(SIGNER, OID, 1, (b"payload",), [ACTOR], [OID])
NOTICE = encode_notice(SIGNER, ACTOR, Notice(CALLER, 7, 100, Place("ca-ring", 0, 9, 300)))

DECODE: dict[str, tuple[bytes, Callable[[bytes], object]]] = {
    "calls": (CALLS, lambda data: decode_calls(SIGNER, ACTOR, data)),
    "push": (PUSH, lambda data: decode_push(SIGNER, CALLER, data)),
    "order": (ORDER, lambda data: decode_order(SIGNER, "queue", data)),
    "value": (VALUE, lambda data: decode_value(SIGNER, OID, data)),
    "notice": (NOTICE, lambda data: decode_notice(SIGNER, ACTOR, data)),
}


@pytest.mark.parametrize("kind", DECODE)
def test_every_byte_counts(kind: str) -> None:
    data, decode = DECODE[kind]
    decode(data)
    for at in range(len(data)):
        altered = bytearray(data)
        altered[at] ^= 1
        with pytest.raises(TamperedError):
            decode(bytes(altered))
    for shorter in (data[:-1], data[:10], b""):
        with pytest.raises(TamperedError):
            decode(shorter)


def test_what_was_signed_for_one_place_is_worthless_in_another() -> None:
    with pytest.raises(TamperedError, match="for actor"):
        decode_calls(SIGNER, OTHER, CALLS)
    with pytest.raises(TamperedError):
        decode_push(SIGNER, b"d" * 8, PUSH)
    with pytest.raises(TamperedError):
        decode_order(SIGNER, "other", ORDER)
    with pytest.raises(TamperedError):
        decode_value(SIGNER, object_id(CALLER, 7, 1), VALUE)
    with pytest.raises(TamperedError):
        decode_notice(SIGNER, OTHER, NOTICE)


def test_kinds_are_kept_apart() -> None:
    signatures = {SIGNER.sign(kind, b"same") for kind in (b"calls", b"push", b"order", b"value")}
    assert len(signatures) == 4
    # A value's signature in the head of a push for the same bytes.
    body = PUSH[20:]
    forged = PUSH[:4] + SIGNER.sign(b"value", CALLER, body) + body
    with pytest.raises(TamperedError):
        decode_push(SIGNER, CALLER, forged)


@pytest.mark.parametrize("kind", DECODE)
def test_another_key_signs_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, decode = DECODE[kind]
    monkeypatch.setitem(globals(), "SIGNER", Signer(b"x" * 32))
    with pytest.raises(TamperedError, match="key"):
        decode(data)


@pytest.fixture
def codec(tmp_path: Path) -> Codec:
    store = SharedMemoryStore("ab", f"c{os.getpid()}", directory=tmp_path, spill=tmp_path / "spill")
    return Codec(SIGNER, store.write, 64, store.read)


def file_of(folder: Path) -> Path:
    (found,) = [path for path in folder.iterdir() if path.is_file() and "life" not in path.name]
    return found


def test_in_shared_memory_stream_and_layout_are_signed_and_buffers_are_not(
    codec: Codec, tmp_path: Path
) -> None:
    import pickle

    buffers: list[pickle.PickleBuffer] = []
    array = bytearray(b"0123456789" * 20)
    stream = pickle.dumps(pickle.PickleBuffer(array), protocol=5, buffer_callback=buffers.append)
    blob = codec.encode(OID, Dumped(frames=[stream, buffers[0].raw()]))
    assert bytes(codec.load(OID, blob)) == bytes(array)
    path = file_of(tmp_path)
    content = path.read_bytes()
    at = content.index(b"0123456789" * 20)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"X")
    assert bytes(codec.load(OID, blob)).startswith(b"X123"), "the bulk is not signed"
    at = content.index(stream)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\x00")
    with pytest.raises(TamperedError, match="stream"):
        codec.load(OID, blob)
    for position in range(17, len(blob)):  # digest, name, lengths
        altered = bytearray(blob)
        altered[position] ^= 1
        with pytest.raises(TamperedError):
            codec.load(OID, bytes(altered))
