"""The modules of a job's driver, for processes that do not see its files.

An entry stands under ``module:<name>`` in the job's packages: ``b"CAM2"``, a 16-byte signature over
``b"module"``, the job, the name and the rest, then the digest of the package that has the module.
No digest: the driver has no such module of its own; ``!`` and a text: it could not be packaged.

A process asks for an entry with a hint to the driver, ``<name>:<signature>`` in hex, signed with
the caller's id and the job's: only members of the cluster have files sent.
"""

from __future__ import annotations

from celery_actors.exceptions import TamperedError
from celery_actors.protocol.signing import SIGNATURE_BYTES, Signer

__all__ = ["decode_entry", "decode_wanted", "encode_entry", "encode_wanted"]

_MAGIC = b"CAM2"
_ENTRY = b"module"
_WANTED = b"module wanted"


def encode_entry(signer: Signer, job_id: str, name: str, said: str) -> bytes:
    """Sign an entry: a digest, nothing, or ``!`` and why there is none."""
    body = said.encode()
    bound = f"{job_id}:{name}:".encode()
    return b"".join((_MAGIC, signer.sign(_ENTRY, bound, body), body))


def decode_entry(signer: Signer, job_id: str, name: str, blob: bytes) -> str:
    """Verify an entry; returns what it says.

    :raises TamperedError: altered, or another module's.
    """
    what = f"the entry of module {name}"
    if blob[:4] != _MAGIC:
        raise TamperedError(f"{what} is not of this protocol (expected {_MAGIC!r})")
    body = blob[4 + SIGNATURE_BYTES :]
    bound = f"{job_id}:{name}:".encode()
    signer.check(blob[4 : 4 + SIGNATURE_BYTES], _ENTRY, bound, body, what=what)
    return body.decode()


def encode_wanted(signer: Signer, caller: str, job_id: str, name: str) -> str:
    """Return the signed text that asks a driver for a module."""
    signature = signer.sign(_WANTED, f"{caller}:{job_id}:{name}".encode())
    return f"{name.encode().hex()}:{signature.hex()}"


def decode_wanted(signer: Signer, caller: str, job_id: str, text: str) -> str:
    """Verify what came for that caller; returns the module's name.

    :raises TamperedError: forged, or meant for another.
    :raises ValueError: no such text.
    """
    said, _, signature = text.partition(":")
    name = bytes.fromhex(said).decode()
    bound = f"{caller}:{job_id}:{name}".encode()
    signer.check(bytes.fromhex(signature), _WANTED, bound, what="a request for a module")
    return name
