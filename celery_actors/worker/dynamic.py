"""Generators with ``num_returns="dynamic"``: their one value is a list of refs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from celery_actors.exceptions import ActorsError
from celery_actors.generators import DynamicObjectRefGenerator
from celery_actors.refs import ObjectRef

if TYPE_CHECKING:
    from celery_actors.client.process import Process
    from celery_actors.serialization import Dumped

__all__ = ["gather"]


def gather(
    process: Process,
    values: Any,
    dump: Callable[[Any], Dumped],
    failure: Callable[[BaseException], ActorsError | None],
) -> DynamicObjectRefGenerator[Any]:
    """Store each value that a generator yields; what it raises becomes the last ref's error.

    Args:
        process: Stores the values.
        values: The generator.
        dump: Pickles a value.
        failure: Returns what getters get in place of a value, since user code raised.

    Raises:
        TypeError: The function returned something else than a generator.
    """
    if not isinstance(values, Iterable):
        raise TypeError(
            f"num_returns='dynamic' is for generators, and {type(values).__qualname__} is none: "
            "yield the values, or leave num_returns out"
        )
    refs: list[ObjectRef[Any]] = []
    try:
        refs.extend(ObjectRef(process.put(dump(value))) for value in values)
    except BaseException as error:
        told = failure(error)
        if told is None:
            raise
        refs.append(ObjectRef(process.put_failure(told)))
    return DynamicObjectRefGenerator(refs)
