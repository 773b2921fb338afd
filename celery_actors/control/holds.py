"""Holds: who keeps an actor alive, or an object stored.

An owner's token is ``{caller_id}/{rest}`` with rest ``p`` (the process has a handle; ``p{n}`` for
each time that it took one anew),
``c{sequence}:{actor_id}`` (a handle inside a queued call to that actor) or
``o{sequence}.{index}`` (a handle or ref inside a stored object), or ``{job_id}/job``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from celery_actors.control.answers import texts
from celery_actors.control.scripts import Scripts

_TOKEN = re.compile(r"[0-9a-f]{16}/(p\d*|job|c\d+:[0-9a-f]{32}|o\d+\.\d+)")


class Holds:
    """Writes, moves and releases holds."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    def write(self, actor_id: str, owner: str) -> bool:
        """See :meth:`Control.hold`."""
        return bool(self._scripts.run("hold", actor_id, _checked(owner)))

    def move(self, actor_id: str, source: str, target: str) -> bool:
        """See :meth:`Control.move_hold`."""
        return bool(self._scripts.run("move_hold", actor_id, _checked(source), _checked(target)))

    def release(self, actor_id: str, owner: str) -> bool:
        """See :meth:`Control.release_hold`."""
        return bool(self._scripts.run("release_hold", actor_id, _checked(owner)))

    def borrow(self, objects: Sequence[str], owner: str) -> bool:
        """See :meth:`Control.borrow`."""
        return bool(self._scripts.run("borrow", _checked(owner), *objects))

    def give_back(self, objects: Sequence[str], owner: str) -> list[str]:
        """See :meth:`Control.give_back`."""
        return texts(self._scripts.run("give_back", _checked(owner), *objects))

    def lent(self, objects: Sequence[str]) -> list[bool]:
        """See :meth:`Control.lent`."""
        return list(map(bool, self._scripts.run("lent", *objects)))

    def of(self, actor_id: str) -> set[str]:
        """See :meth:`Control.holds`."""
        return set(texts(self._scripts.run("holds", actor_id)))


def _checked(token: str) -> str:
    # A token of another form would be written well and never found again at its owner's end.
    if not _TOKEN.fullmatch(token):
        raise ValueError(f"{token!r} is no owner of a hold")
    return token
