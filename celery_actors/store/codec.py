"""Values to stored form and back: signed, and in shared memory where they are large."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from celery_actors import serialization
from celery_actors.error_copies import carried, from_carried
from celery_actors.exceptions import (
    ActorsError,
    ObjectLostError,
    TamperedError,
    TaskError,
    told_by,
)
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
from celery_actors.tracebacks import formatted, name_of, text_of

__all__ = ["Codec"]

logger = logging.getLogger(__name__)

_DIGEST_BYTES = 16
_MOST_INLINE = 1024 * 1024
_MOST_REASON = 2000  # characters


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

    def encode(
        self,
        oid: bytes,
        dumped: Dumped,
        flags: int = 0,
        receiver: bytes = b"",
        inline: bool = False,
    ) -> bytes:
        """Return the stored form of a pickled value; large ones are written to the node.

        :param receiver: of a call's arguments, the actor that the call goes to: what lies in
            shared memory says so (see ``store/sweep.py``).
        :param inline: not in shared memory, however large: it is kept elsewhere than in the store.
        """
        frames = dumped.frames
        if not inline and self.shared(dumped):
            segment = self._write(oid + receiver, [memoryview(frame) for frame in frames])
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
        return self.encode_dumped_error(oid, self.dump_error(error))

    def encode_error_inline(self, oid: bytes, error: TaskError) -> bytes:
        """As :meth:`encode_error`, for a record: that outlives what this process has in memory.

        Records are read often: the cause of an error of more than 1 MiB is replaced by its text.
        """
        dumped = self.dump_error(error)
        if dumped.nbytes > _MOST_INLINE:
            told = told_by(error)
            why = f"the exception that {told.function_name} raised is too large ({dumped.nbytes} B)"
            cause = _in_place(why, told.remote_traceback)
            dumped = self.dump_error(TaskError(told.function_name, told.remote_traceback, cause))
        return self.encode(oid, dumped, ValueFlag.ERROR, inline=True)

    def encode_dumped_error(self, oid: bytes, dumped: Dumped) -> bytes:
        """As :meth:`encode_error`, of what :meth:`dump_error` returned."""
        return self.encode(oid, dumped, ValueFlag.ERROR)

    def dump_error(self, error: BaseException) -> Dumped:
        """Pickle an error; if it can't be pickled, its text and the reason."""
        if isinstance(error, TaskError):
            return _dump_task_error(*told_by(error))
        try:
            dumped = serialization.dumps(error, _what)
            serialization.loads(dumped.frames)
        except BaseException:  # noqa: BLE001 - a user's exception may fail in any way
            return _dump_task_error("a call", formatted(error), error)
        return dumped

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
        if isinstance(loaded, _DumpedTaskError):
            raise _load_task_error(loaded).as_instanceof_cause()
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


class _DumpedTaskError(NamedTuple):
    """A :class:`TaskError` with its cause still pickled.

    The getter may lack what the cause needs: then it gets the text, and not an error of
    unpickling in its place.
    """

    function_name: str
    remote_traceback: str
    cause: bytes | None


def _what() -> str:
    return "the error of a call"


def _dump_task_error(
    function_name: str, remote_traceback: str, cause: BaseException | None
) -> Dumped:
    dumped = None
    if cause is not None:
        dumped = _dump_cause(function_name, remote_traceback, cause)
    pickled = None if dumped is None else bytes(dumped.frames[0])
    told = _DumpedTaskError(function_name, remote_traceback, pickled)
    whole = serialization.dumps(told, _what)
    if dumped is not None:  # it says what is inside the cause, too
        whole.actors, whole.objects, whole.kept = dumped.actors, dumped.objects, dumped.kept
    return whole


def _dump_cause(function_name: str, remote_traceback: str, cause: BaseException) -> Dumped:
    """Pickle what user code raised; if that is not possible, an error that says why (as Ray)."""
    why = ""
    for form in (carried, _itself):
        try:
            return _dump_form(form, cause)
        except BaseException as error:  # noqa: BLE001 - a user's exception may fail in any way
            why = text_of(error)[:_MOST_REASON]
    why = f"the exception {name_of(cause)} that {function_name} raised can't be pickled: {why}"
    logger.warning("%s", why)
    return _dump_form(_itself, _in_place(why, remote_traceback))


def _dump_form(form: Callable[[BaseException], object], cause: BaseException) -> Dumped:
    # In one frame, which is signed wherever the whole is kept.
    dumped = serialization.dumps(form(cause), _what, in_band=True)
    from_carried(serialization.loads(dumped.frames))
    return dumped


def _itself(cause: BaseException) -> object:
    return cause


def _in_place(why: str, remote_traceback: str) -> ActorsError:
    """Return what stands in place of an exception that can't be carried over."""
    return ActorsError(f"{why}\nOriginal exception details:\n{remote_traceback.rstrip()}")


def _load_task_error(found: _DumpedTaskError) -> TaskError:
    cause: BaseException | None = None
    if found.cause is not None:
        try:
            cause = from_carried(serialization.loads([found.cause]))
        except KeyboardInterrupt:  # Ctrl-C, here
            raise
        except BaseException as error:  # noqa: BLE001 - a user's class may raise anything
            why = f"the exception that {found.function_name} raised can't be unpickled here"
            cause = _in_place(f"{why}: {text_of(error)}", found.remote_traceback)
    return TaskError(found.function_name, found.remote_traceback, cause)
