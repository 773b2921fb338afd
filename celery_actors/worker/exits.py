"""How user code ends its own actor."""

from __future__ import annotations

__all__ = ["ActorExit", "exit_actor"]


class ActorExit(SystemExit):
    """Raised in an actor's method to end the actor; ``except Exception`` does not catch it."""


def exit_actor() -> None:
    """End the actor that calls it, after the call in which it does.

    The call itself, and those submitted after it, raise ``ActorDiedError``; those submitted
    before it finish.  The actor is not begun again, whatever its ``max_restarts`` (as Ray's
    ``ray.actor.exit_actor``).

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
    raise ActorExit("exit_actor() was called")
