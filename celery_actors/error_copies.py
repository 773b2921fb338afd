"""Instances of exception classes, taken apart and made without running the classes' own code.

A user's exception may have a constructor that wants other arguments than ``args``, be read-only
(a frozen dataclass), have slots, or hide what every exception has behind properties.  So its state
is read and written here by the descriptors of the built-in classes and by those of the slots.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import BuiltinFunctionType, FunctionType, GetSetDescriptorType, MemberDescriptorType
from typing import Any, NamedTuple

__all__ = [
    "State",
    "assemble",
    "attributes_of",
    "carried",
    "derive",
    "from_carried",
    "state_of",
    "traceback_of",
]

_ATTRIBUTES: Any = BaseException.__dict__["__dict__"]
_TRACEBACK: Any = BaseException.__dict__["__traceback__"]
_ARGS: Any = BaseException.__dict__["args"]
_BASES: Any = type.__dict__["__bases__"]
#: What only the constructor of a built-in class can set, in the order in which it takes them.
_GROUP_MEMBERS = ("message", "exceptions")
#: By which a class says how its instances are pickled.
_PICKLING = (
    "__reduce__",
    "__reduce_ex__",
    "__getstate__",
    "__setstate__",
    "__getnewargs__",
    "__getnewargs_ex__",
)


class State(NamedTuple):
    """What an exception consists of.

    :ivar args: what its built-in base was made with.
    :ivar attributes: its ``__dict__``.
    :ivar members: the members of its built-in classes (``errno``, ``name``) and its slots.
    """

    args: tuple[Any, ...]
    attributes: dict[str, Any]
    members: dict[str, Any]


def attributes_of(error: BaseException) -> dict[str, Any]:
    """Return an exception's ``__dict__``, whatever its class says of attributes."""
    attributes: dict[str, Any] = _ATTRIBUTES.__get__(error)
    return attributes


def traceback_of(error: BaseException) -> Any:
    """Return an exception's traceback, whatever its class says of attributes."""
    return _TRACEBACK.__get__(error)


def state_of(error: BaseException) -> State:
    """Take an exception apart."""
    members: dict[str, Any] = {}
    for name, descriptor in _members(type(error)):
        try:
            members.setdefault(name, descriptor.__get__(error))
        except AttributeError:  # a slot without a value
            continue
    return State(_ARGS.__get__(error), dict(attributes_of(error)), members)


def assemble(kind: type[BaseException], state: State) -> BaseException:
    """Make an exception of a class with that state; the class's constructor does not run.

    :raises TypeError: the class's built-in base refuses (a group of none, say).
    """
    make = next(
        maker
        for base in kind.__mro__
        if isinstance(maker := vars(base).get("__new__"), BuiltinFunctionType)
    )
    in_group = all(name in state.members for name in _GROUP_MEMBERS)
    args = tuple(state.members[name] for name in _GROUP_MEMBERS) if in_group else state.args
    error: BaseException = make(kind, *args)
    _ARGS.__set__(error, state.args)
    # What is a slot here may have been none where it was taken apart (cloudpickle makes none).
    values = state.attributes | state.members
    for name, descriptor in _members(kind):
        with contextlib.suppress(AttributeError, TypeError):  # one that can't be set
            if name in values:
                descriptor.__set__(error, values[name])
    attributes_of(error).update(state.attributes)
    return error


class _Parts(NamedTuple):
    """An exception taken apart, on its way."""

    kind: type[BaseException]
    state: State


def carried(error: BaseException) -> object:
    """Return what is to be pickled in place of an exception.

    Unless its class says how it is pickled, an exception is carried in parts: Python's own way
    calls the class with ``args``, and forgets the members and slots.
    """
    kind = type(error)
    for base in kind.__mro__:
        if any(isinstance(vars(base).get(name), FunctionType) for name in _PICKLING):
            return error
    return _Parts(kind, state_of(error))


def from_carried(found: object) -> BaseException:
    """Return the exception of which :func:`carried` was pickled.

    :raises TypeError: there is none.
    """
    kind = type(found)  # `isinstance` asks a user's class for its ``__class__``
    if issubclass(kind, _Parts):
        assert isinstance(found, _Parts)
        return assemble(found.kind, found.state)
    if not issubclass(kind, BaseException):
        raise TypeError(f"an exception was pickled and a {kind.__qualname__} came of it")
    assert isinstance(found, BaseException)
    return found


def derive(name: str, bases: tuple[type, ...], module: str) -> type:
    """Return a class with these bases, also where the metaclass of the last of them refuses.

    The one that was made last is returned while there is one: a class is garbage that only the
    collector finds.
    """
    subclasses: list[type] = type.__subclasses__(bases[-1])
    for known in subclasses:
        if _BASES.__get__(known) == bases:
            return known
    namespace = {"__module__": module, "__qualname__": name}
    try:
        return type(name, bases, namespace)
    except Exception:  # noqa: BLE001 - a user's metaclass may raise anything
        # ``type`` itself makes it, without the metaclass's own code.
        return type.__new__(type(bases[-1]), name, bases, namespace)


def _members(kind: type[BaseException]) -> Iterator[tuple[str, Any]]:
    for base in kind.__mro__:
        for name, descriptor in vars(base).items():
            own = not name.startswith("__") and name != "args"
            if own and isinstance(descriptor, (MemberDescriptorType, GetSetDescriptorType)):
                yield name, descriptor
