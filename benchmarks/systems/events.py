"""Celery's task events, on and off, and a count of those that come: a monitor in little."""

from __future__ import annotations

import threading
from typing import Any

from celery import Celery

REPLY_SECONDS = 5.0


class EventCount:
    """Turns the workers' events on within a ``with`` block and counts them.

    :ivar count: how many have come; totals of samples are in ``task-succeeded`` only.
    """

    def __init__(self, broker_url: str) -> None:
        self._app = Celery("bench-monitor", broker=broker_url, set_as_current=False)
        self.count = 0
        self._thread: threading.Thread | None = None
        self._receiver: Any = None

    def __enter__(self) -> EventCount:
        connection = self._app.connection_for_read()
        self._receiver = self._app.events.Receiver(connection, handlers={"*": self._on_event})
        self._thread = threading.Thread(target=self._receive, args=(connection,), daemon=True)
        self._thread.start()
        self._app.control.broadcast("enable_events", reply=True, timeout=1.0)
        return self

    def __exit__(self, *_: object) -> None:
        self._app.control.broadcast("disable_events", reply=True, timeout=1.0)
        self._receiver.should_stop = True
        assert self._thread is not None
        self._thread.join(REPLY_SECONDS)
        self._app.close()

    def _on_event(self, event: dict[str, Any]) -> None:
        if event["type"].startswith("task-"):
            self.count += 1

    def _receive(self, connection: Any) -> None:
        with connection:
            self._receiver.capture(limit=None, timeout=None, wakeup=False)
