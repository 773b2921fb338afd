"""What SIGINT does in an actor's process, and in what it starts."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType

__all__ = ["Handler", "handle_interrupts", "take_no_interrupts"]

Handler = Callable[[int, "FrameType | None"], None]

_ours: Handler | None = None


def take_no_interrupts() -> None:
    """Let SIGINT do nothing here: Ctrl-C is the driver's to handle.

    By a handler, since ``exec`` keeps an *ignored* signal ignored: a program that this process
    starts has the default then.  A forked child, as one of :mod:`multiprocessing`, gets Python's
    own handler back.
    """
    handle_interrupts(_nothing)
    os.register_at_fork(after_in_child=_interrupt_as_usual)


def handle_interrupts(handler: Handler) -> None:
    """Have SIGINT call ``handler`` in this process, not in its children."""
    global _ours
    _ours = handler
    signal.signal(signal.SIGINT, handler)


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """Do nothing."""


def _interrupt_as_usual() -> None:
    if signal.getsignal(signal.SIGINT) == _ours:  # and no handler of the user's
        signal.signal(signal.SIGINT, signal.default_int_handler)
