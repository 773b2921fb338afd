"""Exceptions as text, whatever they do when they are asked for it.

A user's ``__str__``, ``__repr__`` and ``__getattr__`` may raise anything, and chains of causes may
be long: who reports an error gets some text always.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from typing import Any

from celery_actors.error_copies import traceback_of

__all__ = ["formatted", "name_of", "passes_through", "shown", "text_of"]

_MOST_TEXT = 256 * 1024  # characters
_MOST_CHAINED = 50
_CAUSE: Any = BaseException.__dict__["__cause__"]
_CONTEXT: Any = BaseException.__dict__["__context__"]
_SUPPRESS: Any = BaseException.__dict__["__suppress_context__"]
_NAME: Any = type.__dict__["__name__"]


def name_of(error: BaseException) -> str:
    """Return the name of an exception's class."""
    return str.__str__(_NAME.__get__(type(error)))


def text_of(value: object) -> str:
    """Return ``str(value)``, or why there is none."""
    return _made(str, value)


def shown(value: object) -> str:
    """Return ``repr(value)``, or why there is none."""
    return _made(repr, value)


def formatted(
    error: BaseException, leave_out: str | None = None, *, both_ends: bool = False
) -> str:
    """Return an exception with its traceback and its causes, as Python prints them.

    :param leave_out: a directory: of the frames, the first are left out that are of its files.
    :param both_ends: the last ones, too.
    """
    trace = traceback_of(error)
    while leave_out and trace and trace.tb_frame.f_code.co_filename.startswith(leave_out):
        trace = trace.tb_next
    try:
        if len(list(_chain(error))) > _MOST_CHAINED:
            raise RecursionError("a long chain of causes")
        whole = traceback.TracebackException(type(error), error, trace, compact=True)
        while both_ends and leave_out and whole.stack:
            if not whole.stack[-1].filename.startswith(leave_out):
                break
            whole.stack.pop()
        text = "".join(whole.format())
    except BaseException as raised:  # noqa: BLE001 - a user's exception may raise anything
        text = _plainly(error, trace, name_of(raised))
    if len(text) <= _MOST_TEXT:
        return text
    half = _MOST_TEXT // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters …\n{text[-half:]}"


def passes_through(error: BaseException, function: Callable[..., object]) -> bool:
    """Whether a function of ours let an exception through."""
    trace = traceback_of(error)
    while trace is not None:
        if trace.tb_frame.f_code is function.__code__:
            return True
        trace = trace.tb_next
    return False


def _made(make: Callable[[object], str], value: object) -> str:
    try:
        # Exactly a `str`: of a user's class derived from it, formatting runs user code.
        return str.__str__(make(value))
    except BaseException as raised:  # noqa: BLE001 - a user's method may raise anything
        return f"(its text can't be made: {name_of(raised)})"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and what it came from, up to one more than are shown."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen and len(seen) <= _MOST_CHAINED:
        seen.add(id(link))
        yield link
        cause = _CAUSE.__get__(link)
        hidden = cause is None and _SUPPRESS.__get__(link)
        # Not `cause or …`, which asks the exception whether it is true.
        following = _CONTEXT.__get__(link) if cause is None else cause
        link = None if hidden else following


def _plainly(error: BaseException, trace: Any, why: str) -> str:
    """As :func:`formatted`, without asking the exceptions for anything but their text."""
    parts: list[str] = []
    for link in list(_chain(error))[:_MOST_CHAINED]:
        shown_trace = trace if link is error else traceback_of(link)
        stack = "".join(traceback.format_tb(shown_trace))
        parts.append(f"Traceback (most recent call last):\n{stack}{name_of(link)}: {text_of(link)}")
    parts.reverse()
    text = "\n\nThen, on its account or while it was handled:\n\n".join(parts)
    return f"{text}\n(Python could not format it: {why})\n"
