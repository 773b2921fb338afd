"""ActorPool: a fixed set of actors, each given the next piece of work when it is free."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from celery_actors.api import get, wait
from celery_actors.exceptions import ActorDiedError
from celery_actors.handle import ActorHandle
from celery_actors.refs import ObjectRef

__all__ = ["ActorPool"]

V = TypeVar("V")

# What a function given to the pool returns: a ref, or a list of them (num_returns > 1).
_Future = Any
_Work = Callable[[Any, Any], _Future]


class ActorPool:
    """Spreads work over actors, one call each at a time (as Ray's ``util.ActorPool``).

    An actor that died is taken out of the pool by the result that says so.  One thread at a
    time may use a pool.

    :param actors: handles; the pool holds them.

    Example::

        pool = ActorPool([Doubler.remote(), Doubler.remote()])
        print(list(pool.map(lambda a, v: a.double.remote(v), [1, 2, 3])))   # [2, 4, 6]
    """

    def __init__(self, actors: Iterable[ActorHandle[Any]]) -> None:
        # Under Ray's names, since public programs extend the pool by these.
        self._idle_actors: list[ActorHandle[Any]] = list(actors)
        self._future_to_actor: dict[Any, tuple[int, ActorHandle[Any]]] = {}
        self._index_to_future: dict[int, _Future] = {}  # in the order of submission
        self._next_task_index = 0
        self._next_return_index = 0
        self._pending_submits: list[tuple[_Work, Any]] = []

    def map(self, function: Callable[[Any, V], _Future], values: Iterable[V]) -> Iterator[Any]:
        """Apply ``function`` to actors and values; iterate over the results in their order.

        What was submitted before and not returned is not returned any more.

        :param function: is given an actor and a value, and returns a ref.
        :raises: on iteration what :meth:`get_next` raises.
        """
        self._forget_all()
        for value in values:
            self.submit(function, value)
        return self._results(self.get_next)

    def map_unordered(
        self, function: Callable[[Any, V], _Future], values: Iterable[V]
    ) -> Iterator[Any]:
        """As :meth:`map`, but results come as they are ready."""
        self._forget_all()
        for value in values:
            self.submit(function, value)
        return self._results(self.get_next_unordered)

    def submit(self, function: Callable[[Any, V], _Future], value: V) -> None:
        """Give ``function`` an idle actor and ``value``, now or when an actor is free.

        An actor is free once its result was returned by :meth:`get_next` or
        :meth:`get_next_unordered`.
        """
        if not self._idle_actors:
            self._pending_submits.append((function, value))
            return
        actor = self._idle_actors.pop()
        index, future = self._next_task_index, function(actor, value)
        self._future_to_actor[_key(future)] = index, actor
        self._index_to_future[index] = future
        self._next_task_index += 1

    def has_next(self) -> bool:
        """Whether there is a result that was not returned yet."""
        return bool(self._future_to_actor)

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """Return the result of what was submitted first of all that is left.

        :param timeout: seconds to wait at most; ``None`` waits for ever.
        :param ignore_if_timedout: drop the result that was not there in time, and take its
            actor for free.
        :raises StopIteration: nothing is left.
        :raises TimeoutError: it was not there in time.
        :raises: what the call raised.
        """
        self._check_left()
        index = next(iter(self._index_to_future))
        refs = _refs(self._index_to_future[index])
        ready = timeout is None or len(wait(refs, num_returns=len(refs), timeout=timeout)[1]) == 0
        return self._take(index, ready, timeout, ignore_if_timedout)

    def get_next_unordered(
        self, timeout: float | None = None, ignore_if_timedout: bool = False
    ) -> Any:
        """Return a result that is ready, whichever it is; else as :meth:`get_next`."""
        self._check_left()
        # The values of one call are there together: its first one tells.
        first = {_refs(future)[0]: index for index, future in self._index_to_future.items()}
        ready, _ = wait(list(first), num_returns=1, timeout=timeout)
        index = first[ready[0]] if ready else next(iter(self._index_to_future))
        return self._take(index, bool(ready), timeout, ignore_if_timedout)

    def has_free(self) -> bool:
        """Whether an actor is idle and no work waits for one."""
        return bool(self._idle_actors) and not self._pending_submits

    def pop_idle(self) -> ActorHandle[Any] | None:
        """Take an idle actor out of the pool; ``None``: there is none."""
        return self._idle_actors.pop() if self.has_free() else None

    def push(self, actor: ActorHandle[Any]) -> None:
        """Add an actor.

        :raises ValueError: it is in the pool already.
        """
        busy = any(actor == other for _, other in self._future_to_actor.values())
        if busy or actor in self._idle_actors:
            raise ValueError(f"{actor!r} is in the pool already")
        self._return_actor(actor)

    # -- within ----------------------------------------------------------------------

    def _check_left(self) -> None:
        if not self._future_to_actor:
            raise StopIteration("no result is left: all that were submitted were returned")

    def _take(self, index: int, ready: bool, timeout: float | None, ignore: bool) -> Any:
        if not ready:
            message = f"the next result was not there after {timeout:g} s"
            if ignore:
                future, actor = self._forget(index)
                self._return_actor(actor)
                message += f"; that of {future!r} will not be returned any more"
            raise TimeoutError(message)
        future, actor = self._forget(index)
        try:
            value = get(future)
        except ActorDiedError:
            self._submit_pending()
            raise
        except BaseException:
            self._return_actor(actor)
            raise
        self._return_actor(actor)
        return value

    def _forget(self, index: int) -> tuple[_Future, ActorHandle[Any]]:
        """Take what is at that place out; returns it, and the actor that is free then."""
        future = self._index_to_future.pop(index)
        self._next_return_index = max(self._next_return_index, index + 1)
        return future, self._future_to_actor.pop(_key(future))[1]

    def _return_actor(self, actor: ActorHandle[Any]) -> None:
        self._idle_actors.append(actor)
        self._submit_pending()

    def _submit_pending(self) -> None:
        if self._pending_submits and self._idle_actors:
            self.submit(*self._pending_submits.pop(0))

    def _forget_all(self) -> None:
        while self._index_to_future:
            self._return_actor(self._forget(next(iter(self._index_to_future)))[1])

    def _results(self, next_result: Callable[[], Any]) -> Iterator[Any]:
        while self.has_next():
            yield next_result()


def _refs(future: _Future) -> Sequence[ObjectRef[Any]]:
    return list(future) if isinstance(future, (list, tuple)) else [future]


def _key(future: _Future) -> Any:
    return tuple(future) if isinstance(future, list) else future
