"""``multiprocessing.Pool`` on actors (as Ray's)."""

from multiprocessing import TimeoutError  # noqa: A004 - the name that programs import

from celery_actors.util.multiprocessing.pool import AsyncResult, IMapIterator, Pool

__all__ = ["AsyncResult", "IMapIterator", "Pool", "TimeoutError"]
