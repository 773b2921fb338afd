"""Arguments on their way: pickled, with refs at top level taken out."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celery_actors import serialization
from celery_actors.client.objects import Entry
from celery_actors.protocol.payload import RefArgument
from celery_actors.refs import ObjectRef
from celery_actors.serialization import Dumped

__all__ = ["NO_ARGUMENTS", "OlderRemote", "dump_arguments"]

#: What :func:`dump_arguments` makes of none; shared, so that it must not be changed.
NO_ARGUMENTS = Dumped(frames=[pickle.dumps(((), {}), protocol=5)])


class OlderRemote:
    """Ray's older name for ``options(…).remote(…)``, of all that has these two."""

    __slots__ = ()

    def _remote(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Call, or create an actor, with options changed."""
        this: Any = self
        changed = this.options(**options) if options else this
        return changed.remote(*(args or ()), **(kwargs or {}))


def dump_arguments(
    args: Sequence[Any], kwargs: Mapping[str, Any], what: Callable[[], str]
) -> tuple[Dumped, tuple[Entry, ...]]:
    """Pickle a call's arguments.

    :returns: the pickled ``(args, kwargs)``, and the entries of the refs at top level,
        which are replaced by their values before the method runs.
    :raises SerializationError: an argument can't be pickled.
    :raises SessionEndedError: one is a ref of a session that has ended.
    """
    if not args and not kwargs:
        return NO_ARGUMENTS, ()
    flat = serialization.dump_flat_arguments(args, kwargs)
    if flat is not None:
        return flat, ()
    refs: list[ObjectRef[Any]] = []

    def replaced(value: Any) -> Any:
        if isinstance(value, ObjectRef):
            value.entry.refuse_if_ended()
            refs.append(value)
            return RefArgument(len(refs) - 1)
        return value

    plain = [replaced(value) for value in args], {k: replaced(v) for k, v in kwargs.items()}
    dumped = serialization.dumps(plain, what)
    dumped.kept.extend(refs)  # the values must stay until the call is resolved
    return dumped, tuple(ref.entry for ref in refs)
