"""Packages in Redis: a job stores each once, under the digest of its bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from celery_actors.control import Control
from celery_actors.exceptions import ObjectLostError, TamperedError
from celery_actors.protocol.packages import (
    CHUNK_BYTES,
    decode_chunk,
    encode_chunk,
    package_hash,
)
from celery_actors.protocol.signing import Signer

__all__ = ["Packages"]


class Packages:
    """The packages of one job."""

    def __init__(self, control: Control, signer: Signer, job_id: str) -> None:
        self._control = control
        self._signer = signer
        self._job = job_id

    def has(self, digest: str) -> bool:
        """Whether the job has stored that package."""
        return self._control.package_chunks(self._job, digest) is not None

    def store(self, digest: str, file: BinaryIO, size: int) -> None:
        """Store a package, unless the job has it.

        :param file: its bytes, ``size`` of them, from the file's position on.
        :raises ObjectLostError: the job is over.
        """
        if self.has(digest):
            return
        count = -(-size // CHUNK_BYTES)
        stored = True
        for index in range(count):
            chunk = encode_chunk(self._signer, digest, index, count, file.read(CHUNK_BYTES))
            stored = stored and self._control.store_package(self._job, digest, index, chunk)
        if not stored or not self._control.complete_package(self._job, digest, count):
            raise ObjectLostError(f"package {digest} can't be stored: job {self._job} is over")

    def read(self, digest: str) -> Iterator[bytes]:
        """Yield a package's bytes, verified.

        :raises ObjectLostError: it is not stored: the job is over.
        :raises TamperedError: altered; what was yielded before is not to be used.
        """
        count = self._control.package_chunks(self._job, digest)
        if count is None:
            raise self._gone(digest)
        total = package_hash()
        for index in range(count):
            blob = self._control.package_chunk(self._job, digest, index)
            if blob is None:
                raise self._gone(digest)
            data = decode_chunk(self._signer, digest, index, count, blob)
            total.update(data)
            yield data
        if total.hexdigest() != digest:
            raise TamperedError(f"package {digest} was altered: its bytes have another digest")

    def _gone(self, digest: str) -> ObjectLostError:
        return ObjectLostError(f"package {digest} of job {self._job} is gone: the job is over")
