"""What a process says to its node before it ends by itself: why, and whether it is to be restarted.

Its exit status can't say so: user code may exit with any.  So the words lie in a file in shared
memory, beside the flight recorder.  The node worker reads them after it has reaped the process.
They need neither server, and stay when the process is killed after them.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import NamedTuple

from celery_actors.worker.launch import Launch

__all__ = [
    "OWN_ERROR",
    "LastWords",
    "forget_last_words",
    "last_words",
    "say",
    "speak_as",
    "take_back",
]

logger = logging.getLogger(__name__)

_MARK = "w"
OWN_ERROR = "an error of celery_actors itself ended its process: its log has the traceback"


class LastWords(NamedTuple):
    """Why a process ended.

    :ivar why: in words, a cause of death.
    :ivar over: the actor is meant to end, and is not restarted.
    """

    why: str
    over: bool = False


_speaker: tuple[int, Path] | None = None  # this process's id, and where its words go


def speak_as(launch: Launch) -> None:
    """Say which process this is.  Children that user code forks are not it."""
    global _speaker
    _speaker = os.getpid(), launch.left_file(_MARK)


def say(why: str, over: bool = False) -> None:
    """Leave the last words of this process, unless it has said some.  Any thread.

    Raises nothing: whoever speaks is about to end the process.
    """
    if _speaker is None or _speaker[0] != os.getpid():
        return
    try:
        _speaker[1].parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(_speaker[1], flags, 0o600)
        try:
            # Shared memory may be full: that shows here, and not where the file is made.
            os.write(descriptor, json.dumps(LastWords(why, over)._asdict()).encode())
        finally:
            os.close(descriptor)
    except FileExistsError:
        return
    except OSError as error:
        logger.warning("the node can't be told why this process ends (%s): %s", error, why)


def take_back() -> None:
    """Nothing is left to be said: the records know that the actor is over."""
    if _speaker is not None and _speaker[0] == os.getpid():
        _speaker[1].unlink(missing_ok=True)


def last_words(launch: Launch) -> LastWords | None:
    """Return what a process, which has been reaped, said at last."""
    try:
        return LastWords(**json.loads(launch.left_file(_MARK).read_bytes()))
    except (OSError, ValueError, TypeError):  # it said nothing, or was killed while it spoke
        return None


def forget_last_words(launch: Launch) -> None:
    """Remove what a process said, once the records know."""
    launch.left_file(_MARK).unlink(missing_ok=True)
