"""Values to stored form and back: signed, and in shared memory where they are large."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from celery_actors import serialization
from celery_actors.exceptions import ActorsError, ObjectLostError, TamperedError, TaskError
from celery_actors.flat import Frame
from celery_actors.protocol.signing import SIGNATURE_BYTES, Signer
from celery_actors.protocol.values import (
    Value,
    ValueFlag,
    decode_value,
    encode_plain_value,
    encode_value,
    packed_frames,
    read_value,
    unpack_frames,
)
from celery_actors.serialization import Dumped
from celery_actors.store.shm import Segment

__all__ = ["Codec"]

_DIGEST_BYTES = 16


class Codec:
    """Encodes and decodes stored values for one process.

    :param write: writes the frames of an object into shared memory.
    :param read: maps a segment's frames, bringing it here from another node first.
    """

    def __init__(
        self,
        signer: Signer,
        write: Callable[[bytes, Sequence[memoryview]], Segment],
        limit: int,
        read: Callable[[Segment], list[memoryview]],
    ) -> None:
        self._signer = signer
        self._write = write
        self._limit = limit
        self._read = read
        self.shares = True
        """False in a process beside which no node could serve its large values to others:
        they then go through Redis and RabbitMQ like small ones."""

    def shared(self, dumped: Dumped) -> bool:
        """Whether a pickled value is so large that it goes to shared memory."""
        return self.shares and dumped.nbytes > self._limit

    def encode(self, oid: bytes, dumped: Dumped, flags: int = 0) -> bytes:
        """Return the stored form of a pickled value; large ones are written to the node."""
        frames = dumped.frames
        if self.shared(dumped):
            segment = self._write(oid, [memoryview(frame) for frame in frames])
            # Only the pickle stream and the layout are signed: nothing else of the
            # segment can run code.
            layout = segment.to_bytes()
            digest = hashlib.blake2b(frames[0], digest_size=_DIGEST_BYTES).digest()
            payload: Sequence[Frame] = (digest, layout)
            flags |= ValueFlag.SHARED
        elif len(frames) > 1:
            payload = packed_frames(frames)
            flags |= ValueFlag.FRAMES
        else:
            payload = frames
        return encode_value(
            self._signer, oid, flags, payload, tuple(dumped.actors), tuple(dumped.objects)
        )

    def encode_flat(self, oid: bytes, frames: list[Frame]) -> bytes:
        """As :meth:`encode`, of a value in which nothing else is (``serialization.dump_flat``)."""
        if len(frames) == 1 and len(frames[0]) <= self._limit:
            return encode_plain_value(self._signer, oid, frames[0])
        return self.encode(oid, Dumped(frames))

    def encode_error(self, oid: bytes, error: BaseException) -> bytes:
        """Return the stored form of an error; getting it raises."""
        try:
            dumped = serialization.dumps(error, lambda: "the error of a call")
            serialization.loads(dumped.frames)
        except Exception:  # noqa: BLE001 - a user's exception may fail in any way
            # The traceback as text always travels.
            if isinstance(error, TaskError):
                plain = TaskError(error.function_name, error.remote_traceback)
            else:
                text = "".join(traceback.format_exception(error))
                plain = TaskError("a call", text)
            dumped = serialization.dumps(plain, lambda: "the error of a call")
        return self.encode(oid, dumped, ValueFlag.ERROR)

    def verify(self, oid: bytes, blob: bytes) -> Value:
        """Verify a stored value without unpickling it.

        :raises TamperedError: altered, or stored under another id.
        """
        return decode_value(self._signer, oid, blob)

    def load(self, oid: bytes, blob: bytes, verified: bool = False) -> Any:
        """Verify and unpickle a stored value.

        :param verified: it came in a push, under a signature that was checked.
        :raises TaskError: the value is an error of user code (also of the user's class).
        :raises ObjectLostError: its segment is gone.
        :raises TamperedError: altered.
        """
        if verified:  # most are of these forms
            flags = blob[SIGNATURE_BYTES]
            if flags == ValueFlag.NONE:
                return serialization.loads([memoryview(blob)[SIGNATURE_BYTES + 1 :]])
            if flags == ValueFlag.FRAMES:
                return serialization.loads(unpack_frames(memoryview(blob)[SIGNATURE_BYTES + 1 :]))
        value = read_value(blob) if verified else decode_value(self._signer, oid, blob)
        loaded = serialization.loads(self._frames(oid, value))
        if not value.flags & ValueFlag.ERROR:
            return loaded
        if isinstance(loaded, TaskError):
            raise loaded.as_instanceof_cause()
        if isinstance(loaded, BaseException):
            raise loaded
        raise ActorsError(f"object {oid.hex()} is an error of no exception class: {loaded!r}")

    def frames(self, oid: bytes, blob: bytes) -> list[memoryview]:
        """Verify a stored value and return its frames, still pickled."""
        return self._frames(oid, decode_value(self._signer, oid, blob))

    def segment(self, value: Value) -> Segment | None:
        """Return the segment of a value in shared memory."""
        if not value.flags & ValueFlag.SHARED:
            return None
        return Segment.from_bytes(bytes(value.payload[_DIGEST_BYTES:]))

    def _frames(self, oid: bytes, value: Value) -> list[memoryview]:
        if value.flags & ValueFlag.FRAMES:
            return unpack_frames(value.payload)
        segment = self.segment(value)
        if segment is None:
            return [value.payload]
        try:
            frames = self._read(segment)
        except FileNotFoundError as error:
            raise ObjectLostError(
                f"object {oid.hex()} is gone: its shared memory on node {segment.node} was "
                "freed (its last ref went, or the node ended)"
            ) from error
        digest = hashlib.blake2b(frames[0], digest_size=_DIGEST_BYTES).digest()
        if digest != bytes(value.payload[:_DIGEST_BYTES]):
            raise TamperedError(
                f"the pickle stream of object {oid.hex()} in shared memory was altered; "
                "it was not unpickled"
            )
        return frames
