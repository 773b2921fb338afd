"""Signatures: without the cluster's key no code runs and nothing is forged.

Keyed BLAKE2b (RFC 7693), 16 bytes.  What is signed always starts with a *kind* and the
identities it is bound to (actor, caller, sequence, object id), so that a payload signed
for one place is worthless in another.

From 2 KiB on it is SHA-256 that reads the bytes, and its digest is signed: today's processors have
instructions for it and take 5 µs for 8 KB, where BLAKE2b takes 9.  Such signatures are
personalized: none is also one of a short text.

**The GIL is kept meanwhile.**  Python's hashes let go of it for pieces of 2,048 bytes and more,
which wakes whoever waits for it; but by the time that thread has come, 8 KB are hashed and the GIL
is taken again.  With three threads in an actor that cost more than the hash.  So the pieces are
shorter, up to a size that is worth the change.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from celery_actors.exceptions import TamperedError
from celery_actors.flat import Frame

__all__ = ["SIGNATURE_BYTES", "Signer"]

SIGNATURE_BYTES = 16

_LARGE = 2048
_PIECE = 2047  # the largest for which the GIL is kept
_LONG = 128 * 1024


class Signer:
    """Signs and verifies with one cluster's key."""

    __slots__ = ("_base", "_kinds", "_large")

    def __init__(self, key: bytes) -> None:
        # BLAKE2b takes keys of up to 64 bytes; longer ones are hashed down first.
        key = key if len(key) <= 64 else hashlib.blake2b(key).digest()
        self._base = hashlib.blake2b(key=key, digest_size=SIGNATURE_BYTES)
        self._large = hashlib.blake2b(key=key, digest_size=SIGNATURE_BYTES, person=b"sha256")
        self._kinds: dict[bytes, hashlib.blake2b] = {}  # few: each a constant of a module

    def sign(self, kind: bytes, *parts: Frame) -> bytes:
        """Return the signature over the concatenation of ``kind`` and ``parts``."""
        if sum(map(len, parts)) >= _LARGE:
            return self._sign_large(kind, parts)
        begun = self._kinds.get(kind)
        if begun is None:
            begun = self._base.copy()
            begun.update(kind)
            self._kinds[kind] = begun
        digest = begun.copy()
        for part in parts:
            digest.update(part)
        return digest.digest()

    def _sign_large(self, kind: bytes, parts: Sequence[Frame]) -> bytes:
        whole = hashlib.sha256(kind)
        for part in parts:
            size = len(part)
            if size <= _PIECE or size > _LONG:
                whole.update(part)
            else:
                view = memoryview(part)
                for at in range(0, size, _PIECE):
                    whole.update(view[at : at + _PIECE])
        digest = self._large.copy()
        digest.update(whole.digest())
        return digest.digest()

    def check(self, signature: Frame, kind: bytes, *parts: Frame, what: str) -> None:
        """Verify ``signature`` over ``kind`` and ``parts``.

        :raises TamperedError: it doesn't match; ``what`` names the payload.
        """
        if not hmac.compare_digest(bytes(signature), self.sign(kind, *parts)):
            raise TamperedError(
                f"{what} carries no valid signature and was not unpickled: it was written "
                "without this cluster's key, or altered on its way"
            )

    def __repr__(self) -> str:
        return "<Signer>"
