"""Concurrency groups: how many calls of an actor run at a time, and in which group each is."""

from __future__ import annotations

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
    is_asyncio: bool, max_concurrency: int | None, groups: Mapping[str, int]
) -> Concurrency:
    """Return how calls of an actor run.

    :param is_asyncio: its class has an ``async def`` method.
    :param max_concurrency: of the default group; ``None``: 1, or 1000 of an asyncio actor (as
        Ray).
    """
    if max_concurrency is None:
        max_concurrency = _ASYNCIO_DEFAULT if is_asyncio else 1
    return Concurrency(is_asyncio, {DEFAULT_GROUP: max_concurrency, **groups})
