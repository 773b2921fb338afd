"""Signatures: without the cluster's key no code runs and nothing is forged.

Keyed BLAKE2b (RFC 7693), 16 bytes.  What is signed always starts with a *kind* and the
identities it is bound to (actor, caller, sequence, object id), so that a payload signed
for one place is worthless in another.
"""

from __future__ import annotations

import hashlib
import hmac

from typing_extensions import Buffer

from celery_actors.exceptions import TamperedError

__all__ = ["SIGNATURE_BYTES", "Signer"]

SIGNATURE_BYTES = 16


class Signer:
    """Signs and verifies with one cluster's key."""

    __slots__ = ("_base", "_kinds")

    def __init__(self, key: bytes) -> None:
        # BLAKE2b takes keys of up to 64 bytes; longer ones are hashed down first.
        key = key if len(key) <= 64 else hashlib.blake2b(key).digest()
        self._base = hashlib.blake2b(key=key, digest_size=SIGNATURE_BYTES)
        self._kinds: dict[bytes, hashlib.blake2b] = {}  # few: each a constant of a module

    def sign(self, kind: bytes, *parts: Buffer) -> bytes:
        """Return the signature over the concatenation of ``kind`` and ``parts``."""
        begun = self._kinds.get(kind)
        if begun is None:
            begun = self._base.copy()
            begun.update(kind)
            self._kinds[kind] = begun
        digest = begun.copy()
        for part in parts:
            digest.update(part)
        return digest.digest()

    def check(self, signature: Buffer, kind: bytes, *parts: Buffer, what: str) -> None:
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
