"""The results backend: Celery's own Redis backend, which also reads actors' results.

``AsyncResult(task_id).get()`` with the id of any call (``ref.task_id()``) returns its
value.  Results of plain calls, and of ordinary Celery tasks, lie under Celery's own keys
and are read as ever.
"""

from __future__ import annotations

from time import monotonic, sleep
from typing import Any

from celery import states
from celery.backends.redis import RedisBackend, SentinelBackend
from celery.exceptions import TimeoutError as CeleryTimeoutError

from celery_actors.config import Settings
from celery_actors.exceptions import ActorsError
from celery_actors.ids import object_id, task_of_celery_id
from celery_actors.protocol.signing import Signer
from celery_actors.store.codec import Codec
from celery_actors.store.connection import open_redis
from celery_actors.store.results import Results
from celery_actors.store.segments import make_store

__all__ = ["ActorsBackend", "SentinelActorsBackend"]

_LOOK_EVERY = 0.05


class ActorsBackend(RedisBackend):  # type: ignore[misc]  # untyped base
    """A Redis backend for apps on which this package is installed."""

    _reader: tuple[Results, Codec] | None = None

    def _actors(self) -> tuple[Results, Codec]:
        if self._reader is None:
            settings = Settings.from_app(self.app)
            client = open_redis(settings)
            results = Results(client, settings.prefix, settings.result_ttl)
            store = make_store(settings, "", f"backend.{id(self):x}")
            codec = Codec(
                Signer(settings.key), store.write, settings.shared_memory_limit, store.read
            )
            self._reader = results, codec
        return self._reader

    def _actor_result(self, task_id: str) -> dict[str, Any] | None:
        """Return the meta of an actor's result, or ``None`` where there is none (yet)."""
        try:
            caller, sequence = task_of_celery_id(task_id)
        except ValueError:
            return None
        results, codec = self._actors()
        oid = object_id(caller, sequence)
        blob = results.fetch([oid])[0]
        if blob is None:
            return None
        meta: dict[str, Any] = {"task_id": task_id, "children": [], "traceback": None}
        try:
            meta.update(status=states.SUCCESS, result=codec.load(oid, blob))
        except ActorsError as error:
            meta.update(status=states.FAILURE, result=error, traceback=str(error))
        return meta

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        return self._actor_result(task_id) or super()._get_task_meta_for(task_id)

    def wait_for_pending(
        self,
        result: Any,
        timeout: float | None = None,
        on_interval: Any = None,
        on_message: Any = None,
        propagate: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Wait for a result of either kind.

        Which kind an id will be can't be told beforehand, so the store is looked at in
        short intervals; processes that called ``init()`` and ``get`` wait on a push.
        """
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            meta = self._get_task_meta_for(result.id)
            if meta["status"] in states.READY_STATES:
                result._maybe_set_cache(meta)
                return result.maybe_throw(propagate=propagate, callback=kwargs.get("callback"))
            if deadline is not None and monotonic() >= deadline:
                raise CeleryTimeoutError("The operation timed out.")
            if on_interval is not None:
                on_interval()
            sleep(kwargs.get("interval") or _LOOK_EVERY)


class SentinelActorsBackend(ActorsBackend, SentinelBackend):  # type: ignore[misc]
    """The same for a Redis behind Sentinel."""
