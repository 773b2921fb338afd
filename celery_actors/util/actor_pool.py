"""ActorPool: a fixed set of actors, each given the next piece of work when it is free."""

from __future__ import annotations

from collections import deque
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
        self._idle: list[ActorHandle[Any]] = list(actors)
        self._running: dict[int, tuple[_Future, ActorHandle[Any]]] = {}
        self._waiting: deque[tuple[_Work, Any]] = deque()
        self._count = 0

    def map(self, function: Callable[[Any, V], _Future], values: Iterable[V]) -> Iterator[Any]:
        """Apply ``function`` to actors and values; iterate over the results in their order.

        What was submitted before and not returned is not returned any more.

        :param function: is given an actor and a value, and returns a ref.
        :raises: on iteration what :meth:`get_next` raises.
        """
        self._forget()
        for value in values:
            self.submit(function, value)
        return self._results(self.get_next)

    def map_unordered(
        self, function: Callable[[Any, V], _Future], values: Iterable[V]
    ) -> Iterator[Any]:
        """As :meth:`map`, but results come as they are ready."""
        self._forget()
        for value in values:
            self.submit(function, value)
        return self._results(self.get_next_unordered)

    def submit(self, function: Callable[[Any, V], _Future], value: V) -> None:
        """Give ``function`` an idle actor and ``value``, now or when an actor is free.

        An actor is free once its result was returned by :meth:`get_next` or
        :meth:`get_next_unordered`.
        """
        if not self._idle:
            self._waiting.append((function, value))
            return
        actor = self._idle.pop()
        self._running[self._count] = function(actor, value), actor
        self._count += 1

    def has_next(self) -> bool:
        """Whether there is a result that was not returned yet."""
        return bool(self._running)

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
        index = next(iter(self._running))
        refs = _refs(self._running[index][0])
        ready = timeout is None or len(wait(refs, num_returns=len(refs), timeout=timeout)[1]) == 0
        return self._take(index, ready, timeout, ignore_if_timedout)

    def get_next_unordered(
        self, timeout: float | None = None, ignore_if_timedout: bool = False
    ) -> Any:
        """Return a result that is ready, whichever it is; else as :meth:`get_next`."""
        self._check_left()
        # The values of one call are there together: its first one tells.
        first = {_refs(future)[0]: index for index, (future, _) in self._running.items()}
        ready, _ = wait(list(first), num_returns=1, timeout=timeout)
        index = first[ready[0]] if ready else next(iter(self._running))
        return self._take(index, bool(ready), timeout, ignore_if_timedout)

    def has_free(self) -> bool:
        """Whether an actor is idle and no work waits for one."""
        return bool(self._idle) and not self._waiting

    def pop_idle(self) -> ActorHandle[Any] | None:
        """Take an idle actor out of the pool; ``None``: there is none."""
        return self._idle.pop() if self.has_free() else None

    def push(self, actor: ActorHandle[Any]) -> None:
        """Add an actor.

        :raises ValueError: it is in the pool already.
        """
        if actor in self._idle or any(actor == busy for _, busy in self._running.values()):
            raise ValueError(f"{actor!r} is in the pool already")
        self._free(actor)

    # -- within ----------------------------------------------------------------------

    def _check_left(self) -> None:
        if not self._running:
            raise StopIteration("no result is left: all that were submitted were returned")

    def _take(self, index: int, ready: bool, timeout: float | None, ignore: bool) -> Any:
        future, actor = self._running[index]
        if not ready:
            message = f"the next result was not there after {timeout:g} s"
            if ignore:
                del self._running[index]
                self._free(actor)
                message += f"; that of {future!r} will not be returned any more"
            raise TimeoutError(message)
        del self._running[index]
        try:
            value = get(future)
        except ActorDiedError:
            self._start_waiting()
            raise
        except BaseException:
            self._free(actor)
            raise
        self._free(actor)
        return value

    def _free(self, actor: ActorHandle[Any]) -> None:
        self._idle.append(actor)
        self._start_waiting()

    def _start_waiting(self) -> None:
        if self._waiting and self._idle:
            self.submit(*self._waiting.popleft())

    def _forget(self) -> None:
        while self._running:
            index = next(iter(self._running))
            _, actor = self._running.pop(index)
            self._free(actor)

    def _results(self, next_result: Callable[[], Any]) -> Iterator[Any]:
        while self.has_next():
            yield next_result()


def _refs(future: _Future) -> Sequence[ObjectRef[Any]]:
    return list(future) if isinstance(future, (list, tuple)) else [future]
