"""The end of a process that user code forked within a call, and that comes back out of it.

Such a child is no actor: it has no mailbox, and what it returns or raises is nobody's result.  It
ends as a script does: with its status after ``sys.exit``, with a traceback and 1 after another
exception, else with 0.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn

from celery_actors.tracebacks import formatted

__all__ = ["leave_child"]


def leave_child(error: BaseException | None) -> NoReturn:
    """End this process, a child of an actor's.

    :param error: what user code raised, if it did.
    """
    status = 0
    try:
        if isinstance(error, SystemExit):
            status = _status_of(error)
        elif error is not None:
            status = 1
            sys.stderr.write(formatted(error))
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    finally:
        os._exit(status)


def _status_of(error: SystemExit) -> int:
    code = error.code
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    sys.stderr.write(f"{code}\n")
    return 1
