"""Results of plain clients' calls: as the app's own backend would keep them."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import redis
from celery import Celery, states
from celery.app.task import Context

from celery_actors.error_copies import state_of
from celery_actors.tracebacks import formatted, name_of, text_of
from celery_actors.worker.plain_messages import PlainCall

__all__ = ["PlainResult", "PlainResults"]

logger = logging.getLogger(__name__)


class PlainResult(NamedTuple):
    """A result as it is stored.

    :ivar seconds: after which Redis drops it; 0: never.
    """

    key: bytes
    seconds: int
    value: bytes


class PlainResults:
    """Encodes results with the result backend of an app, and tells canvas of failures.

    The backend's settings are those of the node's app: key prefix, serializer, compression,
    expiry, ``result_extended``.  Used by the threads that run calls.

    :param app: of this process.
    :param client: with which the backend tells of failures; nothing else is done with it.
    :param hostname: of this worker.
    """

    def __init__(self, app: Celery, client: redis.Redis, hostname: str, queue: str) -> None:
        self._app = app
        app.backend.client = client
        self._hostname = hostname
        self._queue = queue

    def encode(self, call: PlainCall, value: Any) -> PlainResult:
        """Return what is to be stored of a call that returned ``value``.

        :raises BaseException: it can't be encoded.
        """
        return self._encoded(call, states.SUCCESS, self._app.backend.prepare_value(value), None)

    def encode_failure(self, call: PlainCall, state: str, error: BaseException) -> PlainResult:
        """Return what is to be stored of a call that failed or was not run."""
        trace = formatted(error) if state == states.FAILURE else None
        try:
            prepared = self._app.backend.prepare_exception(error)
            return self._encoded(call, state, prepared, trace)
        except BaseException:  # noqa: BLE001 - an exception of user code may fail in any way
            args = [text_of(arg) for arg in state_of(error).args]
            module = type(error).__module__
            plain = {"exc_type": name_of(error), "exc_message": args, "exc_module": module}
            return self._encoded(call, state, plain, trace)

    def _encoded(
        self, call: PlainCall, state: str, prepared: Any, trace: str | None
    ) -> PlainResult:
        backend: Any = self._app.backend
        meta = backend._get_result_meta(
            result=prepared, state=state, traceback=trace, request=self._request(call)
        )
        meta["task_id"] = call.task_id
        encoded = backend.encode(meta)
        expires = backend.failure_expires if state == states.FAILURE else backend.expires
        return PlainResult(
            backend.get_key_for_task(call.task_id),
            int(expires or 0),
            encoded if isinstance(encoded, bytes) else encoded.encode(),
        )

    def tell_dependents(self, call: PlainCall, state: str, error: BaseException) -> None:
        """Tell those who wait for a call that was not run: its chord, its chain, ``link_error``.

        Celery's own backend does it, so that it is as with a task that failed: a chord's body
        fails with a ChordError, the later tasks of a chain fail with the same error.
        """
        request = self._request(call)
        if not (request.chord or request.chain or request.errbacks):
            return
        try:
            backend: Any = self._app.backend
            if state == states.REVOKED:
                backend.mark_as_revoked(call.task_id, str(error), request)
            else:
                backend.mark_as_failure(call.task_id, error, request=request)
        except Exception:
            logger.exception(
                "call %s was not run, and what depends on it (chord, chain or link_error) could "
                "not be told: it may wait for ever",
                call.task_id,
            )

    def _request(self, call: PlainCall) -> Any:
        delivery = {"routing_key": self._queue, "is_eager": False}
        known = {"hostname": self._hostname, "delivery_info": delivery, "called_directly": False}
        return Context({**call.request, **known})
