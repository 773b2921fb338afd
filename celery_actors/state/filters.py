"""Which states are wanted: filters and the limit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, TypeVar

from celery_actors.state.schema import StateSchema

__all__ = ["Filter", "check_filters", "matching", "parse_filter"]

StateT = TypeVar("StateT", bound=StateSchema)

#: ``(field, "=" or "!=", value)``.
Filter = tuple[str, str, Any]

_WRITTEN = re.compile(r"([^=!]+)(!?=)(.+)", re.DOTALL)


def parse_filter(text: str) -> Filter:
    """Read a filter as it is written on a command line: ``state=ALIVE``, ``pid!=17``.

    :raises ValueError: it is none.
    """
    match = _WRITTEN.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no filter: write field=value or field!=value")
    return match[1].strip(), match[2], match[3].strip()


def check_filters(kind: type[StateSchema], filters: Iterable[Filter] | None) -> list[Filter]:
    """Return the filters with the names of fields as they are, whatever their case.

    :raises ValueError: a field or a predicate that there is not.
    """
    columns = {column.lower(): column for column in kind.list_columns()}
    checked: list[Filter] = []
    for key, predicate, value in filters or ():
        if predicate not in ("=", "!="):
            raise ValueError(f"a filter's predicate is '=' or '!=', not {predicate!r}")
        column = columns.get(str(key).lower())
        if column is None:
            known = ", ".join(kind.list_columns())
            raise ValueError(f"{kind.__name__} has no field {key!r} to filter by: it has {known}")
        checked.append((column, predicate, value))
    return checked


def matching(
    states: Iterable[StateT], filters: Sequence[Filter], limit: int, detail: bool
) -> list[StateT]:
    """Return the first ``limit`` states that all filters let through.

    Values are compared as text and without regard to case (as Ray's).

    :param detail: False leaves out what only details show (it can be filtered by).
    """
    found = (state for state in states if all(_lets_through(state, each) for each in filters))
    chosen = list(islice(found, limit))
    if not detail:
        for state in chosen:
            for column in set(state.list_columns()) - set(state.list_columns(detail=False)):
                setattr(state, column, None)
    return chosen


def _lets_through(state: StateSchema, wanted: Filter) -> bool:
    key, predicate, value = wanted
    same = _text(state[key]) == _text(value)
    return same if predicate == "=" else not same


def _text(value: Any) -> str:
    return "" if value is None else str(value).lower()
