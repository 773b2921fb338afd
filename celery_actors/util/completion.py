"""Results as they come: of refs that exist, or of a remote function over many items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from celery_actors.api import get, wait
from celery_actors.refs import ObjectRef

__all__ = ["as_completed", "map_unordered"]


def as_completed(
    refs: Sequence[ObjectRef[Any]],
    *,
    chunk_size: int = 10,
    yield_obj_refs: bool = False,
    timeout: float | None = None,
    fetch_local: bool = True,
) -> Iterator[Any]:
    """Yield the values of refs as they become ready (as Ray's ``util.as_completed``).

    :param chunk_size: how many to wait for at a time: with 1 each is yielded as soon as it
        is there; more costs fewer waits.
    :param yield_obj_refs: yield the refs instead of their values.
    :param timeout: seconds after which a wait yields what is ready, though it is fewer.
    :param fetch_local: accepted for Ray's programs.
    :raises ValueError: ``chunk_size`` is less than 1.
    :raises: on iteration, what getting a value raises.

    Example::

        for value in as_completed([slow.remote(n) for n in range(10)], chunk_size=1):
            print(value)
    """
    _check(chunk_size)
    return _completed(list(refs), chunk_size, yield_obj_refs, timeout, fetch_local)


def map_unordered(
    fn: Any,
    items: Iterable[Any],
    *,
    backpressure_size: int | None = 100,
    chunk_size: int = 10,
    yield_obj_refs: bool = False,
    timeout: float | None = None,
    fetch_local: bool = True,
) -> Iterator[Any]:
    """Call a remote function with each item; yield the values as they become ready.

    Items are taken, and calls made, while results are asked for (as Ray's
    ``util.map_unordered``).

    :param fn: a remote function, or an actor's method.
    :param backpressure_size: calls that may be under way; ``None``: any number.
    :raises ValueError: ``backpressure_size`` or ``chunk_size`` is less than 1.
    :raises: on iteration, what a call raises.  For the rest see :func:`as_completed`.

    Example::

        total = sum(map_unordered(count_words, paths, backpressure_size=20))
    """
    _check(chunk_size)
    if backpressure_size is not None and backpressure_size < 1:
        raise ValueError(f"backpressure_size must be 1 or more, or None, not {backpressure_size}")

    def results() -> Iterator[Any]:
        refs: list[ObjectRef[Any]] = []
        for item in items:
            refs.append(fn.remote(item))
            if backpressure_size is not None and len(refs) >= backpressure_size:
                values, refs = _batch(refs, chunk_size, yield_obj_refs, timeout, fetch_local)
                yield from values
        yield from _completed(refs, chunk_size, yield_obj_refs, timeout, fetch_local)

    return results()


def _check(chunk_size: int) -> None:
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be 1 or more, not {chunk_size}")


def _completed(
    refs: list[ObjectRef[Any]], chunk: int, as_refs: bool, timeout: float | None, fetch: bool
) -> Iterator[Any]:
    while refs:
        values, refs = _batch(refs, chunk, as_refs, timeout, fetch)
        yield from values


def _batch(
    refs: list[ObjectRef[Any]], chunk: int, as_refs: bool, timeout: float | None, fetch: bool
) -> tuple[list[Any], list[ObjectRef[Any]]]:
    ready, rest = wait(refs, num_returns=min(chunk, len(refs)), timeout=timeout, fetch_local=fetch)
    return (ready if as_refs else get(ready)), rest
