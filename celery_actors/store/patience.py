"""Repeating commands while Redis is away, or answers that it can't carry them out now."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from celery_actors.app_settings import without_password
from celery_actors.exceptions import ConnectionFailed
from celery_actors.store.outage import is_outage

__all__ = ["Patience", "RedisUnavailable", "at_most"]

_PAUSE_FIRST, _PAUSE_MOST = 0.02, 0.5  # between two attempts of a command, in seconds

# Each thread's own limit, which `at_most` sets.
_limits = threading.local()


class RedisUnavailable(ConnectionFailed, redis.ConnectionError):
    """Redis could not carry out a command for as long as the caller was ready to wait."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Repeat commands of this thread in an outage for at most ``seconds``."""
    before = getattr(_limits, "seconds", math.inf)
    _limits.seconds = min(before, seconds)
    try:
        yield
    finally:
        _limits.seconds = before


class Patience(Retry):
    """Repeat a command while Redis is away or answers that it can't carry it out now.

    It stands in for redis-py's own rule, which knows only lost connections.  Each attempt uses a
    new connection: after a fail-over the address may lead to another server.

    :param url: of the Redis, for the error.
    :param seconds: how long to repeat a command; asked after each failure, so that a process that
        begins to close waits no longer.
    """

    def __init__(self, url: str, seconds: Callable[[], float]) -> None:
        super().__init__(NoBackoff(), -1)
        self._url = url
        self._seconds = seconds

    def __deepcopy__(self, _memo: object) -> Patience:
        """Return itself: each connection makes a copy, and there is no state to copy."""
        return self

    def call_with_retry(
        self,
        do: Callable[[], Any],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> Any:
        """Run ``do`` until it succeeds; ``fail`` closes the connection after an outage.

        :raises RedisUnavailable: the outage lasted too long.
        """
        failures, began, pause = 0, 0.0, _PAUSE_FIRST
        while True:
            try:
                return do()
            except RedisUnavailable:  # a connection that was made for the command has waited
                raise
            except Exception as error:
                if not is_outage(error):
                    raise
                failures += 1
                _ = fail(error, failures) if with_failure_count else fail(error)
                now = monotonic()
                began = began or now
                patience = min(self._seconds(), getattr(_limits, "seconds", math.inf))
                if now - began >= patience:
                    if patience <= 0:
                        raise
                    raise self._unavailable(error, now - began) from error
            sleep(pause)
            pause = min(2 * pause, _PAUSE_MOST)

    def _unavailable(self, error: Exception, seconds: float) -> RedisUnavailable:
        text = str(error)
        if "maxmemory" in text:
            hint = "it is full: raise its maxmemory, or let go of results that nobody needs"
        elif isinstance(error, redis.exceptions.ReadOnlyError) or "READONLY" in text:
            hint = "it is a replica: wait for the fail-over, or name the master"
        else:
            hint = "calls that were made wait for it; this one was given up"
        return RedisUnavailable(
            f"Redis at {without_password(self._url)} could not be used for {seconds:.0f} s: "
            f"{error}; {hint}"
        )
