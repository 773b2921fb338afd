"""The end of the interpreter in a process that was forked, within a deadline.

Python's own end would take apart the memory that a fork shares with its server: 40 ms of work, and
thousands of copied pages, for each process.  So what user code can see of an interpreter's end is
done here, in Python's order: threads and executors are joined, exit handlers run, the user's
objects go, the modules that user code imported are cleared, files are flushed, and the C library's
handlers run.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import logging
import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

from celery_actors.tracebacks import formatted

__all__ = ["Deadline", "leave", "modules_until_now", "run_exit_handlers"]

logger = logging.getLogger(__name__)

# Seconds after the deadline, after which the kernel ends the process.  The process's own thread may
# be unable to do it, and in the last steps no thread of Python's runs any more.
_KERNEL_LATER = 5.0
_libc_exit = ctypes.PyDLL(None).exit  # keeps the GIL: no other thread of Python's runs meanwhile


class Deadline:
    """Ends this process when a part of its end takes too long.

    Assumption: it is used in the main thread.

    :param seconds: how long that part may take.
    :param late: says to others that this process is over, and ends it; called in a thread.
    """

    def __init__(self, seconds: float, late: Callable[[], None]) -> None:
        self._seconds = seconds
        self._late = late
        self._done = threading.Event()

    def __enter__(self) -> Deadline:
        _have_kernel_end_it(self._seconds + _KERNEL_LATER)
        threading.Thread(target=self._watch, name="celery-actors-deadline", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _watch(self) -> None:
        if not self._done.wait(self._seconds):
            waiting = [
                thread.name
                for thread in threading.enumerate()
                if not thread.daemon and thread is not threading.main_thread()
            ]
            logger.warning(
                "its end took longer than %g s and is cut short; threads that still run: %s",
                self._seconds,
                ", ".join(waiting) or "none",
            )
            self._late()


def _have_kernel_end_it(seconds: float) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def run_exit_handlers(drop: Callable[[], None]) -> None:
    """Join threads and executors, run the handlers of :mod:`atexit`, let the user's objects go.

    What this process has open to the cluster is still open.

    :param drop: lets go of the user's objects.
    """
    end_threads = threading._shutdown  # type: ignore[attr-defined]  # as multiprocessing does
    handlers = atexit._run_exitfuncs
    for step in (end_threads, _wait_for_no_process, handlers, drop, gc.collect, _flush):
        _attempt(step)


def _wait_for_no_process() -> None:
    """Have multiprocessing's exit handler terminate all of its processes.

    It would wait for those that are no daemons, and what an actor started ends with it (as Ray).
    """
    for process in multiprocessing.active_children():
        process._config["daemon"] = True  # type: ignore[attr-defined]  # its setter refuses this


def modules_until_now() -> frozenset[str]:
    """Return the names of the modules that are imported."""
    return frozenset(sys.modules)


def leave(status: int, before_user_code: frozenset[str]) -> NoReturn:
    """End this process: the last steps, for which nothing of the cluster is needed.

    :param before_user_code: names of the modules that were imported before any user code ran.
    """
    _have_kernel_end_it(_KERNEL_LATER)
    threading.excepthook = lambda _arguments: None  # a daemon thread that misses its globals
    later = [name for name in sys.modules if name not in before_user_code]
    for name in reversed(later):
        module = sys.modules.pop(name, None)
        if isinstance(module, ModuleType):
            _attempt(vars(module).clear)
        del module
    _attempt(gc.collect)
    _attempt(_flush)
    _libc_exit(status)
    raise SystemExit(status)


def _attempt(step: Callable[[], Any]) -> None:
    try:
        step()
    except BaseException as error:  # noqa: BLE001 - user code runs in it; the process ends anyway
        logger.error("at the end of the process was raised:\n%s", formatted(error))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
