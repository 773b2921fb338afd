"""The result backend of an app with actors: its own Redis backend, which also reads calls.

``AsyncResult(task_id).get()`` with the id of any call (``ref.task_id()``) returns the call's
value.  Results of ordinary tasks, and of the calls of plain Celery clients, lie under Celery's
own keys: the app's own backend reads and waits for them, and nothing here changes that.

The id tells which of the two it is (see :func:`celery_actors.ids.task_of_celery_id`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from celery import Celery, states
from celery.app.backends import by_url
from celery.backends.base import unpickle_backend
from celery.backends.redis import RedisBackend

from celery_actors.config import DEFAULT_PREFIX, Settings
from celery_actors.exceptions import ActorsError
from celery_actors.ids import object_id, task_of_celery_id
from celery_actors.protocol.signing import Signer
from celery_actors.store.codec import Codec
from celery_actors.store.results import Results
from celery_actors.store.segments import make_store

__all__ = ["CallResults", "backend_of", "reading_calls"]

_LOOK_EVERY = 0.05  # seconds


class CallResults:
    """What a Redis backend of Celery's gains: it reads the results of calls.

    Stands before the backend's class (see :func:`reading_calls`).  It uses the backend's own
    connections, so that all settings of the app hold for them.
    """

    app: Any
    client: Any
    _base: type
    _codec: Codec | None = None

    def call_results(self, task_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the results of calls that are over.  Other ids are left out.

        :raises ConfigurationError: there is such a result, and this app has no cluster key.
        """
        found = [(task_id, oid) for task_id in task_ids if (oid := _object_of(task_id)) is not None]
        if not found:
            return {}
        prefix = self.app.conf.get("actors_prefix") or DEFAULT_PREFIX
        blobs = Results(self.client, prefix, 0.0).fetch([oid for _, oid in found])
        return {
            task_id: self._meta(task_id, oid, blob)
            for (task_id, oid), blob in zip(found, blobs, strict=True)
            if blob is not None
        }

    def _meta(self, task_id: str, oid: bytes, blob: bytes) -> dict[str, Any]:
        """Return the result of a call in the form of Celery's backends."""
        codec = self._make_codec()
        meta: dict[str, Any] = {"task_id": task_id, "children": [], "traceback": None}
        try:
            meta.update(status=states.SUCCESS, result=codec.load(oid, blob))
        # Errors of calls are ActorsErrors, whatever else their class is derived from.  Other
        # exceptions: the value can't be unpickled here.
        except (ActorsError, Exception) as error:  # noqa: BLE001
            meta.update(status=states.FAILURE, result=error, traceback=str(error))
        return meta

    def _make_codec(self) -> Codec:
        if self._codec is None:
            settings = Settings.from_app(self.app)
            store = make_store(settings, "", f"backend.{id(self):x}")
            limit = settings.shared_memory_limit
            self._codec = Codec(Signer(settings.key), store.write, limit, store.read)
        return self._codec

    # -- what Celery's backends call ----------------------------------------------------

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        meta = self.call_results((task_id,)).get(task_id)
        if meta is None:
            stored: dict[str, Any] = super()._get_task_meta_for(task_id)  # type: ignore[misc]
            return stored
        return meta

    def _mget_to_results(
        self, values: Any, keys: Sequence[str], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """Part of ``get_many``: what is there of the tasks with the ids ``keys``."""
        results: dict[str, Any] = super()._mget_to_results(  # type: ignore[misc]
            values, keys, *args, **kwargs
        )
        results.update(self.call_results(key for key in keys if key not in results))
        return results

    def task_result_exists(self, task_id: str) -> bool:
        """Whether there is a result."""
        return bool(
            self.call_results((task_id,)) or super().task_result_exists(task_id)  # type: ignore[misc]
        )

    def __reduce__(self, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        # The class is made at run time and has no name to be found by.
        reduced: Any = super().__reduce__(args, kwargs)  # type: ignore[call-arg]
        return _unpickle, (self._base, *reduced[1][1:])


class _CallConsumer:
    """What a backend's consumer of results gains: it looks for results of calls, too.

    These are not published on the channels that Celery listens to: the store is looked at in
    short intervals, while anybody waits for one.
    """

    backend: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._awaited: set[str] = set()  # ids of calls; changed by single operations only

    def consume_from(self, task_id: str) -> None:
        """Somebody waits for a result."""
        if _object_of(task_id) is not None:
            self._awaited.add(task_id)
        super().consume_from(task_id)  # type: ignore[misc]

    def cancel_for(self, task_id: str) -> None:
        """Nobody waits for that result any more."""
        self._awaited.discard(task_id)
        super().cancel_for(task_id)  # type: ignore[misc]

    def drain_events(self, timeout: float | None = None) -> None:
        """Wait for results, at most ``timeout`` seconds."""
        if self._awaited:
            if self._look():
                return
            timeout = _LOOK_EVERY if timeout is None else min(timeout, _LOOK_EVERY)
        super().drain_events(timeout)  # type: ignore[misc]

    def _look(self) -> bool:
        """Hand out the results of calls that are there; whether there were any."""
        # As Celery's own consumer does what comes on a channel.
        with self._locked(), self.reconnect_on_error():  # type: ignore[attr-defined]
            found = self.backend.call_results(tuple(self._awaited))
            for meta in found.values():
                self.on_state_change(meta, None)  # type: ignore[attr-defined]
            return bool(found)


@cache
def reading_calls(base: type) -> type[Any]:
    """Return a class like ``base``, a Redis backend, which also reads the results of calls."""
    consumer = base.ResultConsumer  # type: ignore[attr-defined]
    return type(
        base.__name__,
        (CallResults, base),
        {
            "__module__": base.__module__,
            "__doc__": base.__doc__,
            "_base": base,
            "ResultConsumer": type(consumer.__name__, (_CallConsumer, consumer), {}),
        },
    )


def backend_of(app: Celery) -> Any:
    """Return a new result backend for ``app``: of the class that it asks for, as Celery does."""
    base, url = by_url(app.backend_cls or app.conf.result_backend, app.loader)
    kind: Any = reading_calls(base) if issubclass(base, RedisBackend) else base
    return kind(app=app, url=url)


def _unpickle(base: type, args: Any, kwargs: Any) -> Any:
    return unpickle_backend(reading_calls(base), args, kwargs)


def _object_of(task_id: str) -> bytes | None:
    """Return the object id of a call's value; ``None``: the id is not that of a call."""
    try:
        caller, sequence = task_of_celery_id(task_id)
    except ValueError:
        return None
    return object_id(caller, sequence)
