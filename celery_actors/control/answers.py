"""Reads what scripts answer: JSON whose empty lists come as empty objects, and rows."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from celery_actors.control.records import Placement


class Answer:
    """A script's JSON answer."""

    def __init__(self, raw: bytes) -> None:
        self._fields: dict[str, Any] = json.loads(raw)

    def get(self, name: str) -> Any:
        """Return one field, None when the script did not set it."""
        return self._fields.get(name)

    def flag(self, name: str) -> bool:
        """Return one field as a truth value."""
        return bool(self._fields.get(name))

    def ids(self, name: str) -> tuple[str, ...]:
        """Return a list of ids."""
        return tuple(self._fields.get(name) or ())

    def placement(self, name: str) -> Placement | None:
        """Return one placement, None when there is none."""
        row = self._fields.get(name)
        return Placement(*row) if row else None

    def placements(self, name: str = "placements") -> tuple[Placement, ...]:
        """Return a list of placements."""
        return tuple(Placement(*row) for row in self._fields.get(name) or ())


def texts(raw: Iterable[bytes]) -> list[str]:
    """Return ids that Redis gave as bytes."""
    return [item.decode() for item in raw]


def seconds(milliseconds: bytes) -> float:
    """Return a time as scripts write it in seconds."""
    return float(milliseconds or 0) / 1000


def milliseconds(seconds: float) -> int:
    """Return a duration as scripts take it."""
    return max(1, round(seconds * 1000))
