"""What an exception of user code becomes: the one place that decides it.

User code runs in methods, tasks, constructors and generators, and also while arguments are
unpickled and while a reply is made (``__reduce__``, ``__iter__``).  Whatever it raises there, any
``BaseException``, becomes the call's result, a :class:`TaskError`, and the process lives on.
Two things are no results:

* ``SystemExit`` ends the process (:class:`Ending`);
* what interrupts a call that was cancelled is its :class:`TaskCancelledError`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard, TypeVar

from celery_actors.exceptions import TaskError, told_by
from celery_actors.tracebacks import formatted, passes_through, shown
from celery_actors.worker.exits import ActorExit

__all__ = ["Ending", "argument_value", "interrupts", "is_a", "is_result", "task_error"]

_HERE = f"{Path(__file__).parent}/"
_PACKAGE = f"{Path(__file__).parent.parent}/"
_OF_ARGUMENT = "  At least one of the arguments of this call could not be computed:"
_CODE: Any = SystemExit.__dict__["code"]  # whatever a class derived from it makes of the name
_Kind = TypeVar("_Kind", bound=BaseException)
_Value = TypeVar("_Value")


class Ending(NamedTuple):
    """How user code ends its process.

    :ivar why: in words.
    :ivar crash: the exit status of what counts as a crash, as if the process had died; ``None``:
        the actor is meant to end, and is not restarted.
    """

    why: str
    crash: int | None = None

    @classmethod
    def by(cls, error: SystemExit, where: str) -> Ending:
        """Return how ``error`` ends an actor: ``sys.exit(0)`` is meant, any other is a crash."""
        if is_a(error, ActorExit):
            return cls(str(error))
        code = _CODE.__get__(error)
        is_number = issubclass(type(code), int)  # nothing else is asked whether it equals 0
        if code is None or (is_number and int.__index__(code) == 0):
            return cls(f"it called sys.exit() in {where}")
        text = shown(code)[:80]
        return cls(f"it called sys.exit({text}) in {where}", _status(code))


def _status(code: Any) -> int:
    """Return the exit status that Python gives a process for ``sys.exit(code)``; never 0."""
    return int.__index__(code) & 0xFF or 1 if issubclass(type(code), int) else 1


def is_a(error: BaseException, kind: type[_Kind]) -> TypeGuard[_Kind]:
    """As ``isinstance``, which would ask a user's class for its ``__class__``."""
    return issubclass(type(error), kind)


def interrupts(error: BaseException, cancelled: bool) -> bool:
    """Whether ``error`` is what interrupts a call that was cancelled."""
    return cancelled and issubclass(type(error), (KeyboardInterrupt, asyncio.CancelledError))


def is_result(error: BaseException, cancelled: bool) -> bool:
    """Whether ``error`` is a result, and neither ends the process nor interrupts the call."""
    return not is_a(error, SystemExit) and not interrupts(error, cancelled)


def argument_value(
    load: Callable[[bytes, bytes | None], _Value], oid: bytes, blob: bytes | None
) -> _Value:
    """Return the value of a ref argument.

    An error that comes out of this function is told as that of an argument (:func:`task_error`).
    """
    return load(oid, blob)


def task_error(name: str, error: BaseException) -> TaskError:
    """Return the error that getters of a failed call get; our own frames are left out.

    That of another call (of a ref argument, or of a nested ``get``) becomes this call's: it has
    the same cause, and tells of both.
    """
    if is_a(error, TaskError):
        told = told_by(error)
        text = formatted(error, _PACKAGE, both_ends=True)
        cause = told.cause if told.cause is not None else error
    else:
        text, cause = formatted(error, _HERE), error
    if passes_through(error, argument_value):
        text = f"{_OF_ARGUMENT}\n{text}"
    return TaskError(name, text, cause)
