"""The pickler: C's, with cloudpickle's ways for what goes by value.

One pass decides for each class and function whether it goes by name or by value, so that a
user's ``__reduce__`` runs once.  Nothing here is registered anywhere and no lock is held: user
code that runs meanwhile may pickle, call and fork.
"""

from __future__ import annotations

import functools
import importlib
import io
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any

import cloudpickle

# Cloudpickle decides by itself what goes by value, from a registry that all threads share.  These
# are its ways without its decision; tests hold them to what its releases have.
from cloudpickle.cloudpickle import _dynamic_class_reduce, dynamic_subimport

from celery_actors.modules import travels_by_value

__all__ = ["Pickler", "deregister_serializer", "has_serializers", "register_serializer"]

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


def has_serializers() -> bool:
    """Whether any class has a serializer."""
    return bool(_serializers)


class Pickler(pickle.Pickler):
    """Pickles values in one pass."""

    # Made for the first function that goes by value: those of one value share their globals.
    _functions: cloudpickle.Pickler | None = None

    def reducer_override(self, value: Any) -> Any:
        """Say how to pickle what C's pickler doesn't know by itself."""
        kind = type(value)
        if kind in _serializers:
            serializer, deserializer = _serializers[kind]
            return deserializer, (serializer(value),)
        if issubclass(kind, type):
            return self._class(value)
        if kind is types.FunctionType:
            return self._function(value)
        reduce = _REDUCERS.get(kind) or _CLOUDPICKLES.get(kind)
        return NotImplemented if reduce is None else reduce(value)

    def _class(self, value: type) -> Any:
        by_name = _by_name(value)
        if by_name is None:
            if value.__module__ == "builtins":  # those of `types`
                return self._with_cloudpickle().reducer_override(value)
            return _dynamic_class_reduce(value)
        return by_name

    def _function(self, value: types.FunctionType) -> Any:
        by_name = _by_name(value)
        if by_name is None:
            return self._with_cloudpickle()._dynamic_function_reduce(value)
        return by_name

    def _with_cloudpickle(self) -> Any:
        if self._functions is None:
            self._functions = cloudpickle.Pickler(io.BytesIO(), protocol=5)
        return self._functions


def _by_name(value: Any) -> Any:
    """Return the reduction of a class or function that goes by name; ``None``: it does not."""
    module = value.__module__
    if travels_by_value(module):
        return None
    path = value.__qualname__
    found: Any = sys.modules[module]
    for name in path.split(".") if "." in path else (path,):
        found = getattr(found, name, None)
    if found is value:
        return NotImplemented
    if getattr(found, "__wrapped__", None) is value:  # `@remote` has put its wrapper there
        return _unwrapped, (module, path)
    return None  # defined in a function, or anew under the same name


def _unwrapped(module: str, name: str) -> Any:
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found.__wrapped__


def _module(value: types.ModuleType) -> Any:
    name = value.__name__
    if name == "__main__" or (sys.modules.get(name) is value and not travels_by_value(name)):
        return importlib.import_module, (name,)
    contents = {key: part for key, part in vars(value).items() if key != "__builtins__"}
    return dynamic_subimport, (name, contents)


def _code(value: types.CodeType) -> Any:
    """Keep where code was written.

    Since 3.1.3 cloudpickle names every function's file ``<dynamic-code>``: tracebacks of
    what travelled by value would then show neither file nor line.
    """
    make, arguments = _CLOUDPICKLES[types.CodeType](value)
    return _located_code, (value.co_filename, make, arguments)


def _located_code(
    file: str, make: Callable[..., types.CodeType], arguments: tuple[Any, ...]
) -> types.CodeType:
    return make(*arguments).replace(co_filename=file)


def _cached(value: Any) -> Any:
    """Have a function under ``lru_cache`` go as the function does; by value, without its cache."""
    if _by_name(value) is not None:
        return NotImplemented
    return _cached_again, (value.cache_parameters(), value.__wrapped__)


def _cached_again(parameters: dict[str, Any], function: Callable[..., Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _cached_property(value: functools.cached_property[Any]) -> Any:
    """Leave out the lock that it has up to Python 3.11."""
    return _cached_property_again, (value.func, value.attrname)


def _cached_property_again(
    function: Callable[[Any], Any], name: str | None
) -> functools.cached_property[Any]:
    made = functools.cached_property(function)
    made.attrname = name  # a class that went by value does not tell it
    return made


_CLOUDPICKLES: dict[type, Callable[[Any], Any]] = cloudpickle.Pickler.dispatch_table.maps[0]
_REDUCERS: dict[type, Callable[[Any], Any]] = {
    types.ModuleType: _module,
    types.CodeType: _code,
    functools._lru_cache_wrapper: _cached,
    functools.cached_property: _cached_property,
}
