"""Values to bytes and back: pickle protocol 5, cloudpickle where plain pickle cannot.

Plain pickle is tried first, because it is fast.  It can't carry classes and functions
that the receiver can't import (defined in ``__main__``, a notebook, a function, or a
module of the user's own): those go by value, through cloudpickle.  Large contiguous
buffers (numpy arrays, bytearrays) travel out of band, so they are copied once at most.

Handles and refs inside a value announce themselves to the *outgoing* record of the
thread that pickles them: who contains them must keep them alive.
"""

from __future__ import annotations

import importlib
import io
import pickle
import sys
import sysconfig
import threading
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle
from typing_extensions import Buffer

from celery_actors import flat
from celery_actors.exceptions import SerializationError
from celery_actors.flat import Frame

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
    "travels_by_value",
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


class _NeedsCloudpickle(Exception):
    """Something in the value must travel by value."""


_LIBRARY_ROOTS = tuple(
    {
        str(Path(sysconfig.get_paths()[name]).resolve())
        for name in ("stdlib", "platstdlib", "purelib", "platlib")
    }
    | {str(Path(__file__).parent.resolve())}
)
_by_value: dict[str, bool] = {}


def travels_by_value(module: str | None) -> bool:
    """Whether classes and functions of ``module`` go by value.

    They do unless the module belongs to the standard library, to installed packages or
    to this package: only those can be expected on another machine.
    """
    if module is None or module == "__main__":
        return True
    known = _by_value.get(module)
    if known is None:
        loaded = sys.modules.get(module)
        path = getattr(loaded, "__file__", None)
        if loaded is None:
            known = True
        elif path is None:  # built in, or a namespace package
            known = False
        else:
            known = not str(Path(path).resolve()).startswith(_LIBRARY_ROOTS)
        _by_value[module] = known
    return known


_serializers: dict[type, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {}


def register_serializer(
    cls: type, *, serializer: Callable[[Any], Any], deserializer: Callable[[Any], Any]
) -> None:
    """Say how instances of a class are pickled by this process (as Ray's ``ray.util``).

    :param serializer: returns something that can be pickled, for an instance.
    :param deserializer: makes an instance of that; it travels with each.

    Example::

        register_serializer(Lock, serializer=lambda lock: lock.name, deserializer=Lock)
    """
    _serializers[cls] = (serializer, deserializer)


def deregister_serializer(cls: type) -> None:
    """End what :func:`register_serializer` began; does nothing where it did not."""
    _serializers.pop(cls, None)


def _custom(value: Any) -> tuple[Callable[[Any], Any], tuple[Any]]:
    serializer, deserializer = _serializers[type(value)]
    return deserializer, (serializer(value),)


class _PlainPickler(pickle.Pickler):
    """Plain pickle that notices what plain pickle would carry by a useless name."""

    def reducer_override(self, value: Any) -> Any:
        if _serializers and type(value) in _serializers:
            return _custom(value)
        if isinstance(value, (type, types.FunctionType)):
            if travels_by_value(getattr(value, "__module__", None)):
                raise _NeedsCloudpickle
        elif isinstance(value, types.ModuleType):
            raise _NeedsCloudpickle
        return NotImplemented


class _CodePickler(cloudpickle.Pickler):  # type: ignore[misc]  # untyped base
    """Cloudpickle that keeps where code was written.

    Since 3.1.3 cloudpickle names every function's file ``<dynamic-code>``: tracebacks of
    what travelled by value would then show neither file nor line.
    """

    def reducer_override(self, value: Any) -> Any:
        if _serializers and type(value) in _serializers:
            return _custom(value)
        if isinstance(value, types.CodeType):
            make, arguments = self.dispatch_table[types.CodeType](value)
            return _located_code, (value.co_filename, make, arguments)
        return super().reducer_override(value)


def _located_code(
    file: str, make: Callable[..., types.CodeType], arguments: tuple[Any, ...]
) -> types.CodeType:
    return make(*arguments).replace(co_filename=file)


class _ByValuePickler(_CodePickler):
    """Cloudpickle that also sends what lives in the user's own modules by value.

    Modules are registered with cloudpickle as they are met, since it looks each class up
    in its registry; :meth:`forget` takes them out again.
    """

    registered: list[types.ModuleType]

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, (type, types.FunctionType, types.ModuleType)):
            name = value.__name__ if isinstance(value, types.ModuleType) else value.__module__
            module = sys.modules.get(name or "")
            if (
                module is not None
                and name != "__main__"
                and travels_by_value(name)
                and name not in cloudpickle.list_registry_pickle_by_value()
            ):
                cloudpickle.register_pickle_by_value(module)
                self.registered.append(module)
        return super().reducer_override(value)

    def forget(self) -> None:
        for module in self.registered:
            cloudpickle.unregister_pickle_by_value(module)


class _ByNamePickler(_CodePickler):
    """Cloudpickle that sends by name also what ``@remote`` has put its wrapper before."""

    registered: list[types.ModuleType]

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, (type, types.FunctionType)) and value.__module__ != "__main__":
            module, path = value.__module__, value.__qualname__
            found: Any = sys.modules.get(module)
            for name in path.split("."):
                found = getattr(found, name, None)
            if found is not value and getattr(found, "__wrapped__", None) is value:
                return _unwrapped, (module, path)
        return super().reducer_override(value)


def _unwrapped(module: str, name: str) -> Any:
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found.__wrapped__


# cloudpickle's registry of modules is global to the process: one thread at a time.
_cloudpickle_lock = threading.Lock()


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
    return None if _serializers else flat.dump_array(value)


def dump_flat_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Dumped | None:
    """Pickle a call's arguments, as ``(list(args), dict(kwargs))``, if all are flat values."""
    frames = None if _serializers else flat.dump_arguments(args, kwargs)
    return None if frames is None else Dumped(frames)


def _dump(value: Any, dumped: Dumped, what: Callable[[], str], in_band: bool) -> Dumped:
    buffers: list[pickle.PickleBuffer] = []
    aside = None if in_band else buffers.append
    stream = io.BytesIO()
    try:
        _PlainPickler(stream, protocol=5, buffer_callback=aside).dump(value)
    except (_NeedsCloudpickle, pickle.PicklingError, TypeError, AttributeError):
        buffers.clear()
        dumped.actors.clear()
        dumped.objects.clear()
        stream = _cloudpickled(value, buffers, what, aside)
    except RecursionError as error:
        raise _explained(value, what, error) from error
    dumped.frames.append(stream.getbuffer())
    dumped.frames.extend(_raw(buffer) for buffer in buffers)
    return dumped


def _cloudpickled(
    value: Any,
    buffers: list[pickle.PickleBuffer],
    what: Callable[[], str],
    aside: Callable[[pickle.PickleBuffer], Any] | None,
) -> io.BytesIO:
    failure: Exception | None = None
    # By value first; a module whose globals can't be pickled still goes by reference.
    for kind in (_ByValuePickler, _ByNamePickler):
        stream = io.BytesIO()
        buffers.clear()
        with _cloudpickle_lock:
            pickler = kind(stream, protocol=5, buffer_callback=aside)
            pickler.registered = []
            try:
                pickler.dump(value)
            except SerializationError:
                raise
            except Exception as error:  # noqa: BLE001 - a user's __reduce__ may raise anything
                failure = failure or error
            else:
                return stream
            finally:
                if isinstance(pickler, _ByValuePickler):
                    pickler.forget()
    assert failure is not None
    try:
        raise _explained(value, what, failure) from failure
    finally:
        failure = None  # its traceback refers to this frame, and that to all that the callers hold


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
        cloudpickle.dumps(value, protocol=5)
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
