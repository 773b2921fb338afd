"""How user code ends its own actor."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["ActorExit", "exit_actor", "on_exit_actor"]


class ActorExit(SystemExit):
    """Raised in an actor's method to end the actor; ``except Exception`` does not catch it."""


def exit_actor() -> None:
    """End the actor that calls it, after the call in which it does.

    The call itself, and those submitted after it, raise ``ActorDiedError``; those submitted
    before it finish.  The actor is not restarted, whatever its ``max_restarts`` (as Ray's
    ``ray.actor.exit_actor``).  What it raises is a ``SystemExit``; code that catches it does
    not keep the actor.  It may be called in the constructor, and by a thread or a task of the
    actor's own.

    :raises TypeError: this is no actor: a driver or a task.

    Example::

        @ray.remote
        class Worker:
            def retire(self):
                ray.actor.exit_actor()
    """
    from celery_actors.worker.context import current_assignment

    if current_assignment().actor_id is None:
        raise TypeError("exit_actor() ends the actor that calls it: this process is no actor")
    asked = ActorExit("exit_actor() was called")
    if _told is not None:
        _told(asked)
    try:
        raise asked
    finally:
        # Its traceback refers to this frame: the cycle would keep the actor's object, and files
        # that are collected in a cycle may lose what was written last.
        del asked


_told: Callable[[ActorExit], None] | None = None


def on_exit_actor(told: Callable[[ActorExit], None]) -> None:
    """Say who is told, in the thread that calls, when :func:`exit_actor` is called."""
    global _told
    _told = told
