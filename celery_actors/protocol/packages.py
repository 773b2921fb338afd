"""Packages of files, stored once a job in signed chunks.

A chunk is ``b"CAP2"``, a 16-byte signature over ``b"package"``, the package's digest, the
chunk's index and the number of chunks, and the bytes; then the bytes.  The digest is that
of the whole package, and a signed creation names it: a package can't be put in another's
place, nor a chunk left out.
"""

from __future__ import annotations

import hashlib
import struct

from celery_actors.exceptions import TamperedError
from celery_actors.protocol.signing import SIGNATURE_BYTES, Signer

__all__ = ["CHUNK_BYTES", "decode_chunk", "encode_chunk", "package_hash"]

CHUNK_BYTES = 1 << 20
_MAGIC = b"CAP2"
_KIND = b"package"
_PLACE = struct.Struct(">II")


def package_hash() -> hashlib.blake2b:
    """Return a new hash object; its hex digest over a package's bytes is the package's name."""
    return hashlib.blake2b(digest_size=16)


def encode_chunk(signer: Signer, digest: str, index: int, count: int, data: bytes) -> bytes:
    """Sign one chunk."""
    place = _PLACE.pack(index, count)
    return b"".join((_MAGIC, signer.sign(_KIND, digest.encode(), place, data), data))


def decode_chunk(signer: Signer, digest: str, index: int, count: int, blob: bytes) -> bytes:
    """Verify a chunk; returns its bytes.

    :raises TamperedError: altered, or another's.
    """
    what = f"chunk {index} of package {digest}"
    if blob[:4] != _MAGIC:
        raise TamperedError(f"{what} is not of this protocol (expected {_MAGIC!r})")
    data = blob[4 + SIGNATURE_BYTES :]
    place = _PLACE.pack(index, count)
    signer.check(blob[4 : 4 + SIGNATURE_BYTES], _KIND, digest.encode(), place, data, what=what)
    return data
