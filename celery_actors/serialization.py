"""Values to bytes and back: pickle protocol 5.

Classes and functions go by name where the receiver can import them, else by value
(:mod:`celery_actors.modules`).  Large contiguous buffers (numpy arrays, bytearrays) travel
out of band, so they are copied once at most.

Handles and refs inside a value announce themselves to the *outgoing* record of the
thread that pickles them: who contains them must keep them alive.  A ``__reduce__`` may put
values and call actors: each value that is pickled meanwhile has a record of its own.
"""

from __future__ import annotations

import io
import pickle
import threading
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from celery_actors import flat
from celery_actors.exceptions import SerializationError, SessionEndedError
from celery_actors.flat import Frame
from celery_actors.pickler import (
    Pickler,
    deregister_serializer,
    has_serializers,
    register_serializer,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "Dumped",
    "deregister_serializer",
    "dump_flat",
    "dump_flat_arguments",
    "dumps",
    "loads",
    "outgoing",
    "parts",
    "pickles",
    "register_serializer",
]


@dataclass(slots=True)
class Dumped:
    """A pickled value.

    :ivar frames: frame 0 is the pickle stream, the others its out-of-band buffers; all are
        bytes, or views of bytes.
    :ivar actors: ids of the actors whose (strong) handles are inside.
    :ivar kept: what must stay alive until the value has arrived: holds and ref entries.
    :ivar objects: ids of the refs inside.
    """

    frames: list[Frame] = field(default_factory=list)
    actors: dict[bytes, None] = field(default_factory=dict)
    objects: dict[bytes, None] = field(default_factory=dict)
    kept: list[Any] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Bytes of all frames."""
        return sum(map(len, self.frames))


class _Local(threading.local):
    outgoing: Dumped | None = None


_local = _Local()


def outgoing() -> Dumped | None:
    """Return the value that this thread is pickling, if it is."""
    return _local.outgoing


def dumps(value: Any, what: Callable[[], str], in_band: bool = False) -> Dumped:
    """Pickle ``value``.

    :param in_band: into one frame, large buffers inside it.
    :param what: called only when it fails: says what is being pickled, for the message.
    :raises SerializationError: something in the value can't be pickled; the message
        names it and where it sits.
    """
    frames = None if in_band else dump_flat(value)
    if frames is not None:
        return Dumped(frames)
    dumped = Dumped()
    previous, _local.outgoing = _local.outgoing, dumped
    try:
        return _dump(value, dumped, what, in_band)
    finally:
        _local.outgoing = previous


def dump_flat(value: Any) -> list[Frame] | None:
    """Return the frames of a flat value (``flat.py``); ``None``: it is none."""
    atom = flat.dump_atom(value)
    if atom is not None:
        return [atom]
    return None if has_serializers() else flat.dump_array(value)


def dump_flat_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Dumped | None:
    """Pickle a call's arguments, as ``(list(args), dict(kwargs))``, if all are flat values."""
    frames = None if has_serializers() else flat.dump_arguments(args, kwargs)
    return None if frames is None else Dumped(frames)


def _dump(value: Any, dumped: Dumped, what: Callable[[], str], in_band: bool) -> Dumped:
    buffers: list[pickle.PickleBuffer] = []
    stream = io.BytesIO()
    aside = None if in_band else buffers.append
    try:
        Pickler(stream, protocol=5, buffer_callback=aside).dump(value)
    except (SerializationError, SessionEndedError):  # of a value within it; of an old ref
        raise
    except (pickle.PicklingError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise _explained(value, what, error) from error
    dumped.frames.append(stream.getbuffer())
    dumped.frames.extend(_raw(buffer) for buffer in buffers)
    return dumped


def _raw(buffer: pickle.PickleBuffer) -> Frame:
    try:
        return buffer.raw()
    except BufferError:  # not contiguous
        return memoryview(buffer).tobytes()


def _explained(value: Any, what: Callable[[], str], error: Exception) -> SerializationError:
    path, culprit = _find(value)
    where = f" at {path}" if path else ""
    return SerializationError(
        f"cannot serialize {what()}: {_shown(culprit)}{where} "
        f"({type(culprit).__module__}.{type(culprit).__qualname__}) can't be pickled: {error}. "
        "Leave it out, create it inside the actor, or give its class a __reduce__"
    )


def _shown(value: Any) -> str:
    try:
        return f"{value!r:.200}"
    except Exception:  # noqa: BLE001 - a user's __repr__ may raise anything; deep nesting does
        return f"a {type(value).__qualname__}"


def pickles(value: Any) -> bool:
    """Return whether ``value`` can be pickled."""
    previous, _local.outgoing = _local.outgoing, Dumped()
    try:
        Pickler(io.BytesIO(), protocol=5).dump(value)
    except Exception:  # noqa: BLE001 - a user's __reduce__ may raise anything: no
        return False
    finally:
        _local.outgoing = previous
    return True


def _find(value: Any, depth: int = 6) -> tuple[str, Any]:
    """Return the path to the innermost part of ``value`` that can't be pickled."""
    path = ""
    for _ in range(depth):
        for name, part in parts(value):
            if not pickles(part):
                path, value = path + name, part
                break
        else:
            break
    return path, value


def parts(value: Any) -> list[tuple[str, Any]]:  # noqa: PLR0911 - a case for each kind
    """Return what ``value`` carries along when it is pickled, each with the way to it."""
    if isinstance(value, dict):
        return [(f"[{key!r}]", part) for key, part in value.items()]
    if isinstance(value, (list, tuple)):
        return [(f"[{index}]", part) for index, part in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return [("{…}", part) for part in value]
    if isinstance(value, types.FunctionType):
        cells = value.__closure__ or ()
        closed = [
            (f".<closure {name}>", cell.cell_contents)
            for name, cell in zip(value.__code__.co_freevars, cells, strict=True)
        ]
        used = [
            (f".<global {name}>", value.__globals__[name])
            for name in value.__code__.co_names
            if name in value.__globals__
        ]
        return closed + used
    if isinstance(value, type):
        return [(f".{name}", part) for name, part in vars(value).items() if callable(part)]
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, dict):
        return [(f".{name}", part) for name, part in attributes.items()]
    return []


def loads(frames: Sequence[Buffer]) -> Any:
    """Unpickle a value whose signature was verified."""
    return pickle.loads(frames[0], buffers=frames[1:])
