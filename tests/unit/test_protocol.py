"""Messages, values, pushes, orders, creations: round trips, and every altered byte noticed."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from celery_actors.exceptions import TamperedError
from celery_actors.ids import (
    celery_id,
    checked_id,
    item_of_sequence,
    item_sequence,
    mailbox_name,
    object_id,
    safe_name,
    split_object_id,
    task_of_celery_id,
)
from celery_actors.protocol.call_options import (
    CallOptions,
    decode_options,
    encode_options,
    split_options,
)
from celery_actors.protocol.calls import CallFlag, decode_calls, encode_call, encode_calls
from celery_actors.protocol.creation import (
    Creation,
    decode_creation,
    decode_definition,
    definition_digest,
    encode_creation,
    encode_definition,
)
from celery_actors.protocol.cursors import Cursor
from celery_actors.protocol.modules import (
    decode_entry,
    decode_wanted,
    encode_entry,
    encode_wanted,
)
from celery_actors.protocol.orders import Order, OrderKind, decode_order, encode_order, is_order
from celery_actors.protocol.payload import (
    Form,
    decode_payload,
    encode_arguments,
    encode_body,
    encode_stored,
    is_apart,
    put_together,
    set_apart,
    split_stored,
)
from celery_actors.protocol.places import Notice, Place, decode_notice, encode_notice
from celery_actors.protocol.signing import Signer
from celery_actors.protocol.values import (
    Copy,
    Pushed,
    ValueFlag,
    decode_push,
    decode_value,
    encode_plain_value,
    encode_push,
    encode_value,
    pack_frames,
    unpack_frames,
)

ACTOR, OTHER = bytes(range(16)), bytes(range(1, 17))
CALLER = b"caller-1"
OID = object_id(CALLER, 7, 1)
SIGNER = Signer(b"k" * 32)
CALLS = [
    encode_call(5, 3, 5, 0, 1, b"increment", b"payload"),
    encode_call(6, 5, 4, CallFlag.RELEASE, 0, b"", b"x/p"),
    encode_call(9, 6, 9, 0, 65535, "größer".encode(), b""),
]
PLACE = Place("ca-ring", 64, 9, 300)
CREATION = Creation("digest", "Counter", 3, 0, b"arguments", ("/here",))

Decode = Callable[[Signer, bytes], Any]
FORMS: dict[str, tuple[bytes, Decode]] = {
    "calls": (
        encode_calls(SIGNER, ACTOR, CALLER, 5, CALLS),
        lambda signer, data: decode_calls(signer, ACTOR, data),
    ),
    "value": (
        encode_value(SIGNER, OID, 0, (b"pickle",), (ACTOR,), (OID,)),
        lambda signer, data: decode_value(signer, OID, data),
    ),
    "push": (
        encode_push(SIGNER, CALLER, ACTOR, Cursor(9), [Pushed(5, 0, b"v"), Pushed(6, 1, None)]),
        lambda signer, data: decode_push(signer, CALLER, data),
    ),
    "notice": (
        encode_notice(SIGNER, ACTOR, Notice(CALLER, 7, 100, PLACE)),
        lambda signer, data: decode_notice(signer, ACTOR, data),
    ),
    "order": (
        encode_order(SIGNER, "queue", Order(OrderKind.KILL, "ab", "cd", "ef")),
        lambda signer, data: decode_order(signer, "queue", data),
    ),
    "creation": (
        encode_creation(SIGNER, ACTOR, CREATION),
        lambda signer, data: decode_creation(signer, ACTOR, data),
    ),
    "module": (
        encode_entry(SIGNER, "job", "shop", "digest"),
        lambda signer, data: decode_entry(signer, "job", "shop", data),
    ),
    "definition": (
        encode_definition(SIGNER, b"pickled"),
        lambda signer, data: decode_definition(signer, data, "d"),
    ),
}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> tuple[bytes, Decode]:
    return FORMS[request.param]


def test_every_altered_byte_is_noticed(form: tuple[bytes, Decode]) -> None:
    data, decode = form
    decode(SIGNER, data)
    for place in range(len(data)):
        for bit in (1, 128):
            altered = bytearray(data)
            altered[place] ^= bit
            with pytest.raises(TamperedError):
                decode(SIGNER, bytes(altered))


def test_every_cut_and_every_addition_is_noticed(form: tuple[bytes, Decode]) -> None:
    data, decode = form
    for length in range(len(data)):
        with pytest.raises(TamperedError):
            decode(SIGNER, data[:length])
    with pytest.raises(TamperedError):
        decode(SIGNER, data + b"\0")


def test_another_clusters_key_is_no_key(form: tuple[bytes, Decode]) -> None:
    data, decode = form
    with pytest.raises(TamperedError, match="without this cluster's key"):
        decode(Signer(b"K" * 32), data)


def test_what_was_signed_for_one_place_is_worthless_in_another() -> None:
    for decode, name in (
        (lambda data: decode_calls(SIGNER, OTHER, data), "calls"),
        (lambda data: decode_value(SIGNER, object_id(CALLER, 7, 0), data), "value"),
        (lambda data: decode_push(SIGNER, b"caller-2", data), "push"),
        (lambda data: decode_order(SIGNER, "another", data), "order"),
        (lambda data: decode_creation(SIGNER, OTHER, data), "creation"),
    ):
        with pytest.raises(TamperedError):
            decode(FORMS[name][0])


def test_calls_round_trip() -> None:
    batch = decode_calls(SIGNER, ACTOR, FORMS["calls"][0])
    assert (batch.actor, batch.caller, batch.floor) == (ACTOR, CALLER, 5)
    first, second, third = batch.calls
    assert first == (CALLER, 5, 3, 5, 0, 1, "increment", b"payload")
    assert (second.flags, second.task, second.payload) == (CallFlag.RELEASE, 4, b"x/p")
    assert (third.method, third.returns, third.payload) == ("größer", 65535, b"")


def test_a_signed_message_that_is_cut_short_inside_is_refused() -> None:
    """The count says more than there is: only somebody with the key could write it."""
    body = encode_calls(SIGNER, ACTOR, CALLER, 5, [*CALLS, b"short"])
    with pytest.raises(TamperedError, match="cut short"):
        decode_calls(SIGNER, ACTOR, body)


def test_values_round_trip() -> None:
    value = decode_value(SIGNER, OID, encode_value(SIGNER, OID, ValueFlag.ERROR, (b"pickle",)))
    assert (value.flags, bytes(value.payload)) == (ValueFlag.ERROR, b"pickle")
    assert value.actors == value.objects == ()
    value = decode_value(SIGNER, OID, FORMS["value"][0])
    assert value.flags == ValueFlag.CONTAINS
    assert (value.actors, value.objects, bytes(value.payload)) == ((ACTOR,), (OID,), b"pickle")


def test_a_plain_value_is_stored_as_any_other() -> None:
    assert encode_plain_value(SIGNER, OID, b"pickle") == encode_value(SIGNER, OID, 0, (b"pickle",))


def test_calls_of_several_methods_in_one_message() -> None:
    names = [b"a", b"a", b"bb", b"a", b""]
    calls = [encode_call(n + 1, n, n + 1, 0, 1, name, b"") for n, name in enumerate(names)]
    batch = decode_calls(SIGNER, ACTOR, encode_calls(SIGNER, ACTOR, CALLER, 1, calls))
    assert [call.method.encode() for call in batch.calls] == names


def test_pushes_round_trip() -> None:
    push = decode_push(SIGNER, CALLER, FORMS["push"][0])
    assert (push.actor, push.cursor) == (ACTOR, Cursor(9))
    assert list(push.results) == [Pushed(5, 0, b"v"), Pushed(6, 1, None)]
    empty = encode_push(SIGNER, CALLER, ACTOR, Cursor(1), [])
    assert decode_push(SIGNER, CALLER, empty).results == []
    running = Cursor(20, (3, 7, 19))
    body = encode_push(SIGNER, CALLER, ACTOR, running, [Pushed(20, 0, b"v")])
    assert decode_push(SIGNER, CALLER, body).cursor == running


def test_a_push_says_where_a_copy_lies_and_what_of_it_is_certain() -> None:
    frames = [b"stream", bytes(5000), bytes(100)]
    value = encode_value(SIGNER, OID, ValueFlag.FRAMES, (pack_frames(frames),))
    place = PLACE._replace(size=3 * len(value))
    copy, other = Copy.of(value, place, 0), Copy.of(value, place, 2 * len(value))
    results = [Pushed(5, 0, b"v"), Pushed(6, 1, copy), Pushed(7, 0, None), Pushed(8, 0, other)]
    push = decode_push(
        SIGNER, CALLER, encode_push(SIGNER, CALLER, ACTOR, Cursor(9), results, b"a memory")
    )
    assert (list(push.results), push.memory) == (results, b"a memory")
    assert copy.certain == len(value) - 5100
    assert copy.fits(value)
    for at in range(copy.certain):
        assert not copy.fits(value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :])
    assert not copy.fits(value[:-1])


def test_all_of_a_copy_without_buffers_is_certain() -> None:
    value = encode_value(SIGNER, OID, 0, (b"x" * 9000,))
    copy = Copy.of(value, PLACE, 0)
    assert copy.certain == len(value)
    assert copy.fits(value)
    assert not copy.fits(value[:-1] + b"y")


def test_a_notice_says_whose_message_lies_where() -> None:
    notice = encode_notice(SIGNER, ACTOR, Notice(CALLER, 7, 100, PLACE))
    assert decode_notice(SIGNER, ACTOR, notice) == Notice(CALLER, 7, 100, PLACE)


def test_buffers_are_set_apart_and_put_together() -> None:
    payloads = [
        encode_body([b"one", bytes(3000), bytes(7)], ()),
        encode_body([b"two", b"x" * 11], ()),
    ]
    split = [set_apart(payload, CallFlag.NONE) for payload in payloads]
    heads = [part[0] for part in split if part is not None]
    behind = memoryview(b"".join(part[1] for part in split if part is not None))
    assert len(behind) == 3018
    assert all(is_apart(head, CallFlag.NONE) and len(head) < 40 for head in heads)
    first, at = put_together(heads[0], behind, 0)
    second, at = put_together(heads[1], behind, at)
    assert ([first, second], at) == (payloads, 3018)
    with pytest.raises(ValueError, match="cut short"):
        put_together(heads[1], behind[:-1], 3007)


def test_only_frames_and_nothing_before_them_are_set_apart() -> None:
    frames = encode_body([b"stream", bytes(3000)], ())
    assert set_apart(encode_body([b"stream"], ()), CallFlag.NONE) is None
    assert set_apart(b"", CallFlag.CANCELLED) is None
    for flag in (CallFlag.HANDLES, CallFlag.ARGUMENTS, CallFlag.OPTIONS):
        assert set_apart(frames, flag) is None
        assert not is_apart(b"\3" + frames[1:], flag)


def test_cursors_say_what_is_finished() -> None:
    cursor = Cursor(12, (7, 9))
    assert Cursor.parse(cursor.text().encode()) == cursor
    assert Cursor.parse(b"12") == Cursor(12)
    assert Cursor.parse(None) == Cursor(0)
    assert [s for s in range(6, 14) if not cursor.covers(s)] == [7, 9, 13]


def test_options_of_a_call_stand_before_its_payload() -> None:
    options = CallOptions(3, (ValueError, KeyError), "io", "a name", True, 5)
    pickled, rest = split_options(encode_options(options) + b"the payload")
    assert rest == b"the payload"
    assert decode_options(pickled) == options
    assert encode_options(CallOptions()) == b""
    assert options.retries_after(KeyError())
    assert not options.retries_after(OSError())
    assert CallOptions(1, True).retries_after(OSError())


def test_ids_of_what_generators_yield() -> None:
    for index in (0, 5, 65_535, 65_536, 5_000_000):
        sequence, place = item_sequence(77, index)
        assert item_of_sequence(sequence, place) == (77, index)
        assert place < 65_536
    assert item_of_sequence(77, 0) is None


def test_orders_round_trip() -> None:
    for kind in OrderKind:
        order = Order(kind, "ab", "cd", "ef")
        data = encode_order(SIGNER, "queue", order)
        assert is_order(data)
        assert decode_order(SIGNER, "queue", data) == order
    assert not is_order(FORMS["calls"][0])


def test_creations_and_definitions_round_trip() -> None:
    assert decode_creation(SIGNER, ACTOR, FORMS["creation"][0]) == CREATION
    assert decode_definition(SIGNER, FORMS["definition"][0], "d") == b"pickled"
    assert definition_digest(b"a") != definition_digest(b"b")


def test_payloads_round_trip() -> None:
    arguments = encode_arguments([(OID, b"value"), (OID, None)])
    flags = CallFlag.ARGUMENTS | CallFlag.HANDLES
    decoded = decode_payload(arguments + encode_body([b"pickle"], (ACTOR, OTHER)), flags)
    assert decoded.arguments == [(OID, b"value"), (OID, None)]
    assert decoded.actors == [ACTOR, OTHER]
    assert (decoded.form, bytes(decoded.data)) == (Form.PLAIN, b"pickle")
    framed = decode_payload(encode_body([b"pickle", b"buffer"], ()), 0)
    assert framed.form == Form.FRAMES
    assert [bytes(frame) for frame in unpack_frames(framed.data)] == [b"pickle", b"buffer"]
    stored = decode_payload(encode_stored(OID, b"value", ()), 0)
    assert (stored.form, split_stored(stored.data)) == (Form.STORED, (OID, b"value"))


def test_frames_of_any_size() -> None:
    frames = [b"", b"x", os.urandom(1000), bytearray(10)]
    assert [bytes(frame) for frame in unpack_frames(pack_frames(frames))] == [*map(bytes, frames)]


def test_ids() -> None:
    assert split_object_id(object_id(CALLER, 2**64 - 1, 65535)) == (CALLER, 2**64 - 1, 65535)
    assert task_of_celery_id(celery_id(CALLER, 77)) == (CALLER, 77)
    assert mailbox_name(ACTOR) == "actor.000102030405060708090a0b0c0d0e0f"
    with pytest.raises(ValueError, match="badly formed"):
        task_of_celery_id("my-own-id")


def test_the_signers_key_is_not_shown_and_does_not_pickle() -> None:
    assert "k" * 8 not in repr(SIGNER)
    with pytest.raises(TypeError):
        pickle.dumps(SIGNER)


def test_long_keys_count_whole() -> None:
    a, b = Signer(b"x" * 100), Signer(b"x" * 99 + b"y")
    assert a.sign(b"text") != b.sign(b"text")


@pytest.mark.parametrize("size", [0, 1, 2047, 2048, 2049, 4094, 4095, 128 * 1024, 128 * 1024 + 1])
def test_a_signature_is_over_all_bytes_however_they_are_split(size: int) -> None:
    text = os.urandom(size)
    signed = SIGNER.sign(b"kind", text)
    for at in (0, 1, size // 2, size):
        assert SIGNER.sign(b"kind", text[:at], memoryview(text)[at:]) == signed
    for at in {0, size // 2, max(0, size - 1)} if size else ():
        other = text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :]
        assert SIGNER.sign(b"kind", other) != signed
    assert SIGNER.sign(b"kinds", text) != signed
    assert SIGNER.sign(b"kind", text, b"x") != signed
    assert Signer(b"K" * 32).sign(b"kind", text) != signed


def test_no_signature_of_a_large_message_is_one_of_its_digest() -> None:
    text = os.urandom(5000)
    digest = hashlib.sha256(b"kind" + text).digest()
    assert SIGNER.sign(digest) != SIGNER.sign(b"kind", text)
    assert SIGNER.sign(b"", digest) != SIGNER.sign(b"kind", text)


def test_an_entry_belongs_to_one_module_of_one_job() -> None:
    blob = encode_entry(SIGNER, "job", "shop", "digest")
    assert decode_entry(SIGNER, "job", "shop", blob) == "digest"
    for job, name in (("other", "shop"), ("job", "shops")):
        with pytest.raises(TamperedError):
            decode_entry(SIGNER, job, name, blob)


def test_a_request_for_a_module_is_signed_for_one_driver() -> None:
    text = encode_wanted(SIGNER, "caller", "job", "größe")
    assert decode_wanted(SIGNER, "caller", "job", text) == "größe"
    forged = f"{b'secrets'.hex()}:{text.partition(':')[2]}"
    for caller, said in (("other", text), ("caller", forged)):
        with pytest.raises(TamperedError):
            decode_wanted(SIGNER, caller, "job", said)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("Größe_2", "Größe_2"),
        ("../../etc/passwd", "______etc_passwd"),
        ("", "_"),
        ("a\nb\0c\ud800", "a_b_c_"),
        ("x" * 300, "x" * 64),
        ("é" * 300, "é" * 32),
        ("x" + "é" * 300, "x" + "é" * 31),
    ],
)
def test_a_name_as_a_part_of_files_and_hosts(name: str, safe: str) -> None:
    assert safe_name(name) == safe


@pytest.mark.parametrize("text", ["", "..", "../a", "AB", "ab/", "ab\n"])
def test_what_is_no_id_becomes_no_path(text: str) -> None:
    assert checked_id("0123456789abcdef") == "0123456789abcdef"
    with pytest.raises(ValueError, match="where an id in hex belongs"):
        checked_id(text)
