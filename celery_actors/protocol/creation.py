"""The creation of an actor or executor: kept in its record, signed, read by its process.

``b"CAC2"``, a 16-byte signature over ``b"creation"``, the actor's id and the rest, then a
pickled :class:`Creation`.  A definition (a pickled class or function) is
``b"CAD2"``, a signature over ``b"definition"`` and the rest, then the pickle.  What handles
to an actor are made from, where it is found by its name, is ``b"CAH2"``, a signature over
``b"handle"``, the actor's id and the rest, then a pickle.
"""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import dataclass

from celery_actors.exceptions import TamperedError
from celery_actors.protocol.concurrency import SERIAL, Concurrency
from celery_actors.protocol.environment import NO_ENVIRONMENT, Environment
from celery_actors.protocol.signing import SIGNATURE_BYTES, Signer

__all__ = [
    "Creation",
    "decode_creation",
    "decode_definition",
    "decode_handle",
    "definition_digest",
    "encode_creation",
    "encode_definition",
    "encode_handle",
]

_CREATION = (b"CAC2", b"creation")
_DEFINITION = (b"CAD2", b"definition")
_HANDLE = (b"CAH2", b"handle")


@dataclass(frozen=True, slots=True)
class Creation:
    """What a process needs to become an actor (or, without a class, an executor).

    :ivar sequence: the constructor's place among its creator's calls.
    :ivar flags, payload: the constructor's arguments, as of a call.
    :ivar sys_path: where the creator finds its own modules.
    :ivar concurrency: how many of its calls run at a time, and how.
    :ivar environment: its ``runtime_env``, together with what it inherits.
    :ivar group: the placement group in which it runs; empty: none.
    :ivar home, home_place: the job's driver, and where its files are seen; empty: not known.
    :ivar captures: what it creates runs in that group as well, unless it says otherwise.
    """

    class_digest: str
    class_name: str
    sequence: int
    flags: int
    payload: bytes
    sys_path: tuple[str, ...]
    concurrency: Concurrency = SERIAL
    environment: Environment = NO_ENVIRONMENT
    group: str = ""
    captures: bool = False
    home: str = ""
    home_place: str = ""


def encode_creation(signer: Signer, actor: bytes, creation: Creation) -> bytes:
    """Sign and encode."""
    magic, kind = _CREATION
    body = pickle.dumps(creation, protocol=5)
    return b"".join((magic, signer.sign(kind, actor, body), body))


def decode_creation(signer: Signer, actor: bytes, data: bytes) -> Creation:
    """Verify and decode.

    :raises TamperedError: altered, or another actor's.
    """
    magic, kind = _CREATION
    what = f"the creation of actor {actor.hex()}"
    body = _body(magic, data, what)
    signer.check(data[4 : 4 + SIGNATURE_BYTES], kind, actor, body, what=what)
    creation = pickle.loads(body)
    assert isinstance(creation, Creation)
    return creation


def definition_digest(pickled: bytes) -> str:
    """Return the name under which a pickled class or function is stored."""
    return hashlib.blake2b(pickled, digest_size=16).hexdigest()


def encode_definition(signer: Signer, pickled: bytes) -> bytes:
    """Sign a pickled class or function."""
    magic, kind = _DEFINITION
    return b"".join((magic, signer.sign(kind, pickled), pickled))


def decode_definition(signer: Signer, data: bytes, name: str) -> bytes:
    """Verify a definition; returns the pickle.

    :raises TamperedError: altered.
    """
    magic, kind = _DEFINITION
    what = f"definition {name}"
    body = _body(magic, data, what)
    signer.check(data[4 : 4 + SIGNATURE_BYTES], kind, body, what=what)
    return body


def encode_handle(signer: Signer, actor: bytes, pickled: bytes) -> bytes:
    """Sign the pickled description of an actor's class."""
    magic, kind = _HANDLE
    return b"".join((magic, signer.sign(kind, actor, pickled), pickled))


def decode_handle(signer: Signer, actor: bytes, data: bytes) -> bytes:
    """Verify the description of an actor's class; returns the pickle.

    :raises TamperedError: altered, or another actor's.
    """
    magic, kind = _HANDLE
    what = f"the description of actor {actor.hex()}"
    body = _body(magic, data, what)
    signer.check(data[4 : 4 + SIGNATURE_BYTES], kind, actor, body, what=what)
    return body


def _body(magic: bytes, data: bytes, what: str) -> bytes:
    if data[:4] != magic:
        raise TamperedError(f"{what} is not of this protocol (expected {magic!r})")
    return data[4 + SIGNATURE_BYTES :]
