"""Concurrency groups: how many calls of an actor run at a time, and in which group each is."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["DEFAULT_GROUP", "SERIAL", "Concurrency", "concurrency_of"]

#: Calls that name no group are in this one.
DEFAULT_GROUP = ""
_ASYNCIO_DEFAULT = 1000


@dataclass(frozen=True, slots=True)
class Concurrency:
    """How an actor's calls run.

    :ivar asyncio: on an event loop, since the class has ``async def`` methods.
    :ivar groups: the number of calls that run at a time, by group.
    """

    asyncio: bool = False
    groups: Mapping[str, int] = field(default_factory=lambda: {DEFAULT_GROUP: 1})

    @property
    def serial(self) -> bool:
        """Whether one call runs after another."""
        return not self.asyncio and self.most == 1

    @property
    def most(self) -> int:
        """How many calls run at a time in all groups together."""
        return sum(self.groups.values())


#: One call after another: of actors without further ado, and of tasks.
SERIAL = Concurrency()


def concurrency_of(
    kind: type, max_concurrency: int | None, groups: Mapping[str, int]
) -> Concurrency:
    """Return how calls of an actor of class ``kind`` run.

    :param max_concurrency: of the default group; ``None``: 1, or 1000 for a class that has
        an ``async def`` method (as Ray).
    """
    is_async = any(
        inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member)
        for _, member in inspect.getmembers(kind, inspect.isroutine)
    )
    if max_concurrency is None:
        max_concurrency = _ASYNCIO_DEFAULT if is_async else 1
    return Concurrency(is_async, {DEFAULT_GROUP: max_concurrency, **groups})
