"""Why a value can't be serialized: the parts of it that can't, and the way to each."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TextIO

from celery_actors.serialization import parts, pickles

__all__ = ["FailureTuple", "inspect_serializability"]

_VARIABLE = re.compile(r"\.<(?:closure|global) (.+)>|\.(.+)")


@dataclass(frozen=True, eq=False)
class FailureTuple:
    """A part that can't be serialized.

    :ivar obj: the part.
    :ivar path: names of the variables, attributes and places that lead to it.
    :ivar parent: what it is in; ``None`` for the inspected value itself.
    """

    obj: Any
    path: tuple[str, ...]
    parent: Any

    @property
    def name(self) -> str:
        """The last name of the path."""
        return self.path[-1] if self.path else "unknown"

    def __repr__(self) -> str:
        return f"FailTuple({self.name} [obj={self.obj!r:.100}, parent={self.parent!r:.100}])"


def inspect_serializability(
    base_obj: Any, name: str | None = None, depth: int = 3, print_file: TextIO | None = None
) -> tuple[bool, set[FailureTuple]]:
    """Say whether a value can be serialized, and which parts of it can't (as Ray's).

    :param name: what it is called in the report.
    :param depth: how far to look into it: closures, globals, attributes, items.
    :param print_file: where the report goes; ``None``: standard output.
    :returns: whether it can be serialized, and the innermost parts that can't.

    Example::

        lock = threading.Lock()
        ok, failures = inspect_serializability(lambda: lock, name="f")
        # False, {FailTuple(lock …)}
    """
    out = print_file or sys.stdout
    shown = name or f"{base_obj!r:.100}"
    if pickles(base_obj):
        out.write(f"{shown} can be serialized\n")
        return True, set()
    failures = set(_failures(base_obj, (name,) if name else (), None, depth))
    out.write(f"{shown} can't be serialized, because of:\n")
    for failure in sorted(failures, key=lambda failure: failure.path):
        way = " -> ".join(failure.path)
        out.write(f"  {way or shown}: {failure.obj!r:.200}\n")
    out.write(
        "Leave these out, create them where they are used, or give their class a __reduce__. "
        "There may be more, deeper inside.\n"
    )
    return False, failures


def _failures(value: Any, path: tuple[str, ...], parent: Any, depth: int) -> Iterator[FailureTuple]:
    """Yield the innermost parts of ``value``, which can't be pickled, that can't either."""
    found = False
    for way, part in parts(value) if depth > 0 else ():
        if not pickles(part):
            found = True
            yield from _failures(part, (*path, _plain(way)), value, depth - 1)
    if not found:
        yield FailureTuple(value, path, parent)


def _plain(way: str) -> str:
    match = _VARIABLE.fullmatch(way)
    return way if match is None else match[1] or match[2]
