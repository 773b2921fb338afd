"""What a process measures, until it is written to Redis.

Recording adds to a dictionary.  A thread, begun with the first record, writes what changed
every few seconds and sleeps while nothing does; the process's client has the rest written
before it closes.

Guarantee: what is written counts once, also when an answer is lost with the connection:
each write has a number, and the last one that was done stands in the caller's record.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Sequence
from time import sleep
from typing import TYPE_CHECKING, Any

import redis

from celery_actors.client.current import before_close, current_process

if TYPE_CHECKING:
    from celery_actors.client.process import Process

__all__ = ["Recorder", "Tags", "recorder", "series"]

logger = logging.getLogger(__name__)

WRITE_EVERY = 5.0
"""Seconds between two writes of a process whose metrics change."""

Tags = tuple[tuple[str, str], ...]

# What a series is, in a process: the metric's name, which part of it (the number of a
# histogram's bucket, or its "sum"), and its tags.
_Series = tuple[str, str, Tags]


def series(name: str, part: str, tags: Tags, node: str, actor_class: str) -> str:
    """Return the name of a series in Redis."""
    return json.dumps([name, part, tags, node, actor_class], separators=(",", ":"))


class Recorder:
    """The metrics of one process.  Any thread."""

    def __init__(self) -> None:
        # Guards the tables; held for a few instructions.
        self._lock = threading.Lock()
        # Held while a write is under way.
        self._writing = threading.Lock()
        self._descriptions: dict[str, str] = {}
        self._sums: dict[_Series, float] = {}
        self._values: dict[_Series, float] = {}
        self._changed = threading.Event()
        self._thread: threading.Thread | None = None
        self._number = 0
        self._unanswered: str | None = None
        self._told: tuple[str, dict[str, str]] = ("", {})  # whom, and which descriptions
        self._actor_class: str | None = None

    def describe(self, name: str, description: dict[str, Any]) -> None:
        """Say what a metric is; the last one of a name counts."""
        with self._lock:
            self._descriptions[name] = json.dumps(description)

    def add(self, amounts: Sequence[tuple[_Series, float]]) -> None:
        """Add to what only grows."""
        with self._lock:
            for of, amount in amounts:
                self._sums[of] = self._sums.get(of, 0) + amount
        self._wake()

    def set(self, of: _Series, value: float) -> None:
        """Set what goes up and down."""
        with self._lock:
            self._values[of] = value
        self._wake()

    def _wake(self) -> None:
        if self._changed.is_set():
            return
        self._changed.set()
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="celery-actors-metrics", daemon=True
                )
                self._thread.start()

    def _run(self) -> None:
        while True:
            self._changed.wait()
            sleep(WRITE_EVERY)  # what is recorded meanwhile is written with it
            process = current_process()
            if process is not None and not process.closed:
                self.write(process)

    def write(self, process: Process) -> None:
        """Write what has changed to Redis; without it, it is tried again with the next."""
        with self._writing:
            try:
                if self._unanswered is not None:
                    self._send(process, self._unanswered)
                if self._changed.is_set():
                    self._send(process, self._gathered(process))
            except redis.ResponseError:
                logger.exception("metrics could not be written, and are dropped")
                self._unanswered = None
            except redis.RedisError as error:
                logger.debug("metrics are written later: %s", error)

    def _gathered(self, process: Process) -> str:
        node, actor_class = process.node_id or "", self._class_of(process)

        def named(table: dict[_Series, float]) -> dict[str, str]:
            return {series(*of, node, actor_class): repr(value) for of, value in table.items()}

        with self._lock:
            self._changed.clear()
            sums, self._sums = self._sums, {}
            values, self._values = self._values, {}
            descriptions = dict(self._descriptions)
        told = self._told[1] if self._told[0] == process.job_id else {}
        new = {name: text for name, text in descriptions.items() if told.get(name) != text}
        self._told = process.job_id, descriptions
        self._number += 1
        return json.dumps({"describe": new, "add": named(sums), "set": named(values)})

    def _send(self, process: Process, what: str) -> None:
        self._unanswered = what
        process.control.add_metrics(process.caller.hex(), self._number, what)
        self._unanswered = None

    def _class_of(self, process: Process) -> str:
        if self._actor_class is None:
            record = process.control.actor(process.actor_hex) if process.actor_hex else None
            self._actor_class = "driver" if record is None else record.class_name
        return self._actor_class

    def after_fork(self) -> None:
        """In a forked child: what was measured is its parent's to tell."""
        descriptions = self._descriptions
        self.__init__()  # type: ignore[misc]
        self._descriptions = descriptions


recorder = Recorder()
before_close(recorder.write)
os.register_at_fork(after_in_child=recorder.after_fork)
