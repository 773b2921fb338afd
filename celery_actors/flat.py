"""Flat values, in which nothing else can be: numbers, strings, bytes and numpy's arrays.

They are most of what travels, and their pickles need no pickler.  An array's way through it
(``__reduce_ex__``, one function and one dtype looked up by their names, and the same again where
it is loaded) costs 8 µs and 3 µs, several times what is done to its bytes.  What its pickle says
beside the buffer follows from dtype, shape and order, so it is made once.

What is written here are pickles as any other (protocol 5, buffers out of band): who loads them
does not know.  A memo is not kept: an object that occurs twice would come out as two, so
arguments with the same array twice go through the pickler.
"""

from __future__ import annotations

import copyreg
import pickle
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    import numpy

__all__ = ["Frame", "dump_arguments", "dump_array", "dump_atom"]

Frame = bytes | memoryview

_REMEMBERED = frozenset((str, bytes))
_ATOMS = frozenset((int, float, bool, str, bytes, type(None)))
_LONG = 4096  # of strings and bytes: those go through the pickler, which copies them once less

# The letters of numpy's own; of others', and other byte orders, buffers may know nothing.
_NUMBERS = "?bBhHiIlLqQefdgFDG"

_PROTOCOL = b"\x80\x05"
_MARK, _TUPLE, _PAIR = b"(", b"t", b"\x86"
_LIST, _APPENDS, _DICT, _SETITEMS = b"]", b"e", b"}", b"u"
_ARRAY = b"\x8c\x05numpy\x8c\x07ndarray\x93"  # the class, by its name
_REDUCE = b"R"
_BUFFER, _READONLY = b"\x97", b"\x98"
_FORTRAN = b"K\0N\x8c\1F"  # offset 0, strides None, order "F"
_STOP = b"."


def dump_atom(value: Any) -> bytes | None:
    """Return the pickle stream of a number, a string, bytes, a bool or None.

    ``None``: it is something else (or of a class of the user's).
    """
    return pickle.dumps(value, protocol=5) if type(value) in _ATOMS else None


def dump_array(value: Any) -> list[Frame] | None:
    """Return the frames of an array: the pickle stream and its buffer.

    ``None``: it is something else, an array of anything but this machine's numbers, one that isn't
    contiguous, or of a class derived from numpy's.
    """
    if not _is_array(value):
        return None
    opcodes = _opcodes(value)
    if opcodes is None:
        return None
    return [b"".join((_PROTOCOL, opcodes, _STOP)), _bytes_of(value)]


def dump_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Frame] | None:
    """Return the frames of ``(list(args), dict(kwargs))``.

    ``None``: an argument is neither an atom nor such an array as :func:`dump_array` takes.
    """
    stream = [_PROTOCOL, _LIST, _MARK]
    arrays: list[numpy.ndarray[Any, Any]] = []
    for value in args:
        opcodes = _of_argument(value, arrays)
        if opcodes is None:
            return None
        stream.append(opcodes)
    stream += (_APPENDS, _DICT)
    if kwargs:
        stream.append(_MARK)
        for name, value in kwargs.items():
            opcodes = _of_argument(value, arrays) if type(name) is str else None
            if opcodes is None:
                return None
            stream += (_of_atom(name), opcodes)
        stream.append(_SETITEMS)
    stream += (_PAIR, _STOP)
    if len(arrays) > 1 and len(set(map(id, arrays))) < len(arrays):
        return None
    return [b"".join(stream), *map(_bytes_of, arrays)]


def _of_argument(value: Any, arrays: list[numpy.ndarray[Any, Any]]) -> bytes | None:
    kind = type(value)
    if kind in _ATOMS:
        return None if kind in _REMEMBERED and len(value) > _LONG else _of_atom(value)
    if not _is_array(value):
        return None
    arrays.append(value)
    return _opcodes(value)


def _of_atom(value: Any) -> bytes:
    # Of protocol 3: they stand in no frame, so that they can be put together.  After strings and
    # bytes comes what puts them into the memo.
    stream = pickle.dumps(value, protocol=3)
    return stream[2:-3] if type(value) in _REMEMBERED else stream[2:-1]


def _bytes_of(array: Any) -> memoryview:  # a buffer, though numpy's types don't say so
    return pickle.PickleBuffer(array).raw()


def _is_array(value: Any) -> TypeGuard[numpy.ndarray[Any, Any]]:
    kind = type(value)  # by its name: numpy is not imported for it
    return (
        kind.__name__ == "ndarray"
        and kind.__module__ == "numpy"
        and kind not in copyreg.dispatch_table
    )


def _opcodes(array: numpy.ndarray[Any, Any]) -> bytes | None:
    dtype, flags = array.dtype, array.flags
    if dtype.char not in _NUMBERS or not dtype.isnative or dtype.metadata is not None:
        return None
    if not flags.forc:
        return None
    return _made_of_buffer(dtype.str, array.shape, not flags.c_contiguous, flags.writeable)


@lru_cache(maxsize=1024)
def _made_of_buffer(dtype: str, shape: tuple[int, ...], fortran: bool, writeable: bool) -> bytes:
    """Return what calls ``ndarray(shape, dtype, <the next buffer>, …)``."""
    return b"".join(
        (
            _ARRAY,
            *(_MARK, _MARK, *map(_of_atom, shape), _TUPLE, _of_atom(dtype)),
            _BUFFER if writeable else _BUFFER + _READONLY,
            _FORTRAN if fortran else b"",
            *(_TUPLE, _REDUCE),
        )
    )
