"""ActorGroup: several actors of one class, which are called together (deprecated in Ray)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celery_actors.api import get, kill, wait
from celery_actors.handle import ActorHandle
from celery_actors.refs import ObjectRef
from celery_actors.remote import remote

__all__ = ["ActorGroup", "ActorGroupMethod", "ActorWrapper"]


@dataclass
class ActorWrapper:
    """One actor of a group.

    :ivar metadata: what its method ``get_actor_metadata`` returned, if it has one.
    """

    actor: ActorHandle[Any]
    metadata: Any


class ActorGroupMethod:
    """A method of all actors of a group."""

    def __init__(self, actors: Sequence[ActorWrapper], name: str) -> None:
        self._actors = actors
        self._name = name

    def remote(self, /, *args: Any, **kwargs: Any) -> list[ObjectRef[Any]]:
        """Call the method of each actor; returns a ref for each."""
        return [getattr(each.actor, self._name).remote(*args, **kwargs) for each in self._actors]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: it would run here."""
        raise TypeError(
            f"ActorGroup methods cannot be called directly. Instead of 'group.{self._name}()', "
            f"use 'group.{self._name}.remote()'."
        )


class ActorGroup:
    """Actors of one class: ``group.method.remote(…)`` calls the method of each.

    :param actor_cls: a plain class.
    :param num_actors: how many.
    :param num_cpus_per_actor, num_gpus_per_actor, resources_per_actor: what each holds.
    :param init_args, init_kwargs: arguments of each one's constructor.
    :raises ValueError: there are to be fewer than one, or an amount is negative.
    """

    def __init__(
        self,
        actor_cls: type,
        num_actors: int = 1,
        num_cpus_per_actor: float = 1,
        num_gpus_per_actor: float = 0,
        resources_per_actor: Mapping[str, float] | None = None,
        init_args: Sequence[Any] | None = None,
        init_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if num_actors <= 0:
            raise ValueError(f"num_actors must be greater than 0, not {num_actors}")
        self.actors: list[ActorWrapper] = []
        self.num_actors = num_actors
        self._kind: Any = remote(
            num_cpus=num_cpus_per_actor, num_gpus=num_gpus_per_actor, resources=resources_per_actor
        )(actor_cls)
        self._args = tuple(init_args or ())
        self._kwargs = dict(init_kwargs or {})
        self.start()

    def start(self) -> None:
        """Create the actors, also again after :meth:`shutdown`.

        :raises RuntimeError: there are some.
        """
        if self.actors:
            raise RuntimeError("the actors have been started: call shutdown() first")
        self.add_actors(self.num_actors)

    def add_actors(self, num_actors: int) -> None:
        """Create further actors."""
        made = [self._kind.remote(*self._args, **self._kwargs) for _ in range(num_actors)]
        told = [a.get_actor_metadata.remote() for a in made if "get_actor_metadata" in dir(a)]
        metadata = get(told) if told else [None] * len(made)
        self.actors += [ActorWrapper(*each) for each in zip(made, metadata, strict=True)]

    def remove_actors(self, actor_indexes: Collection[int]) -> None:
        """Let go of the actors at these places."""
        self.actors = [a for place, a in enumerate(self.actors) if place not in actor_indexes]

    def shutdown(self, patience_s: float = 5) -> None:
        """End the actors.

        :param patience_s: seconds for what they still do; then, or if it is 0, they are killed.
        """
        actors = [each.actor for each in self.actors]
        late: Sequence[Any] = actors
        if patience_s > 0 and actors:
            ends = [actor.__ray_terminate__.remote() for actor in actors]
            _, late = wait(ends, num_returns=len(ends), timeout=patience_s)
        if late:
            for actor in actors:
                kill(actor)
        self.actors = []

    @property
    def actor_metadata(self) -> list[Any]:
        """What each actor told of itself when it was made."""
        return [each.metadata for each in self.actors]

    def __getattr__(self, name: str) -> ActorGroupMethod:
        if name.startswith("__"):
            raise AttributeError(name)
        if not self.__dict__.get("actors"):
            raise RuntimeError("this ActorGroup has been shut down: call start() first")
        return ActorGroupMethod(self.actors, name)

    def __len__(self) -> int:
        return len(self.actors)

    def __getitem__(self, place: int) -> ActorWrapper:
        return self.actors[place]
