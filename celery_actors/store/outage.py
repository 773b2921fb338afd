"""What an error of Redis means: try again, or not.

An answer of Redis is one of three things, and this module tells the first two apart:

* Redis can't do it *now*: it is away, starts, is full, is a replica during a fail-over, runs a long
  script.  The same command may succeed later.  Nothing may end because of it.
* A command was wrong: a bug, or a right that the user lacks.  To repeat it helps nobody.
* One of our own scripts refused, in a normal reply.  Only that says anything of an actor's record.
"""

from __future__ import annotations

import re

import hiredis
import redis

__all__ = ["is_lost", "is_outage"]

_LOST: tuple[type[Exception], ...] = (
    OSError,
    redis.ConnectionError,  # also LOADING, NOAUTH, and too many clients
    redis.TimeoutError,
)
_CLASSES: tuple[type[Exception], ...] = (
    *_LOST,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.ClusterDownError,  # also MASTERDOWN
    redis.exceptions.TryAgainError,
)
# What redis-py has no class for, or has one only in some versions.  Before Redis 7 the code is in
# the middle of the text where a script met the error.
_CODES = re.compile(
    r"\b(BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOAUTH|NOREPLICAS|OOM|READONLY|TRYAGAIN)\b"
    r"|command not allowed when used memory|max number of clients|UNBLOCKED"
)


def is_outage(error: object) -> bool:
    """Return whether the same command may succeed later.

    :param error: an exception, or an error reply as hiredis returns it.
    """
    if isinstance(error, _CLASSES):
        return True
    if isinstance(error, (redis.RedisError, hiredis.ReplyError)):
        return _CODES.search(str(error)) is not None
    return False


def is_lost(error: object) -> bool:
    """Return whether it is an outage in which the connection itself is lost."""
    return isinstance(error, _LOST)
