"""Options of a call that its executor acts on; most calls have none.

They stand at the start of the payload (flag ``OPTIONS``) as a 2-byte length and a pickled
tuple of :class:`CallOptions`, under the message's signature.
"""

from __future__ import annotations

import pickle
from dataclasses import astuple, dataclass
from functools import lru_cache
from struct import Struct

from celery_actors import serialization

__all__ = ["DEFAULT_OPTIONS", "CallOptions", "decode_options", "encode_options", "split_options"]

_LENGTH = Struct(">H")


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What a call asks of its executor.

    :ivar retries: how often it may run again after an exception in ``retry_exceptions`` or
        the death of its process; -1: always.
    :ivar retry_exceptions: which exceptions it is run again for; ``True``: any.
    :ivar group: the concurrency group; ``None``: that of the method, or the default one.
    :ivar name: under which tools show it.
    :ivar streams: it is a generator, whose values leave as they are yielded.
    :ivar window: values of a stream that may wait for their consumer; -1: any number.
    :ivar dynamic: it is a generator, whose value is a list of refs to what it yields.
    """

    retries: int = 0
    retry_exceptions: bool | tuple[type[BaseException], ...] = False
    group: str | None = None
    name: str | None = None
    streams: bool = False
    window: int = -1
    dynamic: bool = False

    def retries_after(self, error: BaseException) -> bool:
        """Whether a call that raised ``error`` may be run again at all."""
        if isinstance(self.retry_exceptions, bool):
            return self.retry_exceptions and isinstance(error, Exception)
        return isinstance(error, self.retry_exceptions)


DEFAULT_OPTIONS = CallOptions()


def encode_options(options: CallOptions) -> bytes:
    """Return the options with their length; nothing for the defaults.

    :raises SerializationError: an exception class can't be pickled.
    """
    if options == DEFAULT_OPTIONS:
        return b""
    dumped = serialization.dumps(astuple(options), lambda: "the options of a call", in_band=True)
    pickled = bytes(dumped.frames[0])
    return _LENGTH.pack(len(pickled)) + pickled


def split_options(payload: bytes) -> tuple[bytes, bytes]:
    """Split a payload with options into these (still pickled) and the rest."""
    (length,) = _LENGTH.unpack_from(payload)
    return payload[2 : 2 + length], payload[2 + length :]


@lru_cache(maxsize=256)
def decode_options(pickled: bytes) -> CallOptions:
    """Return the options of a verified call."""
    return CallOptions(*pickle.loads(pickled))
