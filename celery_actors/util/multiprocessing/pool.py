"""``multiprocessing.Pool`` whose processes are actors, anywhere in the cluster (as Ray's)."""

from __future__ import annotations

import multiprocessing.pool
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from multiprocessing import TimeoutError  # noqa: A004 - the name that programs import
from multiprocessing.dummy import DummyProcess
from multiprocessing.pool import AsyncResult, IMapIterator, ThreadPool
from typing import Any

from celery_actors.api import cluster_resources, get, init, is_initialized, kill
from celery_actors.exceptions import ActorError
from celery_actors.handle import ActorHandle
from celery_actors.remote import remote

__all__ = ["AsyncResult", "IMapIterator", "Pool", "TimeoutError"]


class PoolActor:
    """One process of a pool."""

    def __init__(self, initializer: Callable[..., Any] | None, initargs: Iterable[Any]) -> None:
        if initializer is not None:
            initializer(*initargs)

    def run(self, function: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> Any:
        """Do one piece of work: a call, or a chunk of them."""
        return function(*args, **kwargs)


class _Actors:
    """The actors of one pool.  Its threads share it; a set's operations are atomic."""

    def __init__(self, options: Mapping[str, Any] | None) -> None:
        self._class = remote(PoolActor).options(**{"num_cpus": 0, **(options or {})})
        self._living: set[ActorHandle[Any]] = set()
        self._over = False

    def make(self, initializer: Any, initargs: Any) -> ActorHandle[Any]:
        actor: ActorHandle[Any] = self._class.remote(initializer, initargs)
        self._living.add(actor)
        if self._over:
            self.end(actor)
        return actor

    def end(self, actor: ActorHandle[Any]) -> None:
        self._living.discard(actor)
        kill(actor)

    def end_all(self) -> None:
        self._over = True
        for actor in list(self._living):
            self.end(actor)

    def let_go(self, actor: object) -> None:
        """Its work is done: it ends with its last handle."""
        self._living.discard(actor)


def _work(
    actors: _Actors,
    tasks: Any,
    results: Any,
    initializer: Callable[..., Any] | None,
    initargs: tuple[Any, ...],
    most: int | None,
    *_: Any,
) -> None:
    """Have one actor do what comes, until ``None`` does: the loop of one of the pool's threads.

    As the standard library's loop of a process, whose place it takes: an item is a piece of work
    with its place, and what is put back says whether it went well.

    :param most: pieces of work after which the actor is replaced (``maxtasksperchild``).
    """
    actor, done = _made(actors, initializer, initargs), 0
    for job, place, function, args, kwargs in iter(tasks.get, None):
        went_well, value = _outcome(actor, function, args, kwargs)
        results.put((job, place, (went_well, value)))
        done += 1
        died = not went_well and isinstance(value, ActorError)
        if died or done == most or isinstance(actor, Exception):
            actors.let_go(actor)
            actor, done = _made(actors, initializer, initargs), 0
    actors.let_go(actor)


def _made(actors: _Actors, initializer: Any, initargs: Any) -> ActorHandle[Any] | Exception:
    """Return a new actor, or why there is none: who waits for the next work gets that."""
    try:
        return actors.make(initializer, initargs)
    except Exception as error:  # noqa: BLE001 - no room, a session that has ended, a bad option
        return error


def _outcome(
    actor: ActorHandle[Any] | Exception, function: Callable[..., Any], args: Any, kwargs: Any
) -> tuple[bool, Any]:
    try:
        if isinstance(actor, Exception):
            raise actor
        return True, get(actor.run.remote(function, args, kwargs))
    except Exception as error:  # noqa: BLE001 - the work may raise anything; its caller gets it
        return False, error


def _thread(actors: _Actors, _context: Any, target: Any, args: tuple[Any, ...]) -> DummyProcess:
    del target  # the standard library's loop, which would do the work here
    return DummyProcess(target=_work, args=(actors, *args))


class Pool(ThreadPool):
    """``multiprocessing.Pool`` on actors: each of its threads has one do its work.

    Everything that the standard library documents of a pool holds: order, chunks, callbacks,
    ``close``, ``terminate``, ``join``.

    Args:
        processes: How many actors; by default one for each CPU of the cluster.
        initializer: Called in each actor before its first work.
        initargs: The initializer's arguments.
        maxtasksperchild: Pieces of work after which an actor is replaced.
        context: Accepted for programs of ``multiprocessing``.
        ray_address: Of the cluster, as for ``init()``, where the program has not called it yet.
        ray_remote_args: Options of the actors, e.g. ``{"num_cpus": 1}``.

    Raises:
        ValueError: ``processes`` is more than the CPUs that the cluster has, or less than 1.

    Example:
        >>> with Pool(4) as pool:
        ...     pool.map(abs, [-1, -2])
        [1, 2]
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] | None = None,
        maxtasksperchild: int | None = None,
        context: Any = None,
        ray_address: str | None = None,
        ray_remote_args: Mapping[str, Any] | None = None,
    ) -> None:
        del context
        self._state = multiprocessing.pool.INIT  # what __del__ looks at, if this raises
        if not is_initialized():
            init(ray_address)
        cpus = int(cluster_resources().get("CPU", 0))
        if processes is not None and processes > max(cpus, 1):
            raise ValueError(
                f"a pool of {processes} processes was asked for, and the cluster has {cpus} CPUs: "
                "ask for fewer, or start more nodes"
            )
        self._actors = _Actors(ray_remote_args)
        # What the standard library starts.
        self.Process = partial(_thread, self._actors)  # type: ignore[method-assign,assignment]
        multiprocessing.pool.Pool.__init__(
            self, processes or max(cpus, 1), initializer, tuple(initargs or ()), maxtasksperchild
        )

    def terminate(self) -> None:
        """End the actors at once, with what they do; results that are not there never come."""
        self._actors.end_all()
        super().terminate()
