"""The executor of threaded actors: as many calls at a time as their groups allow.

The main thread takes calls from the inbox in their order and hands each to its group; a
group's threads begin them in that order.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import Any

from celery_actors.protocol.calls import Call
from celery_actors.protocol.concurrency import Concurrency
from celery_actors.worker.executor import Executor, die_of
from celery_actors.worker.plain_messages import PLAIN_CALLER, PlainCall
from celery_actors.worker.progress import Progress

__all__ = ["ThreadedExecutor"]


class ThreadedExecutor(Executor):
    """Runs calls in threads.

    Assumption: user code of a threaded actor guards its own state (as in Ray).
    """

    def __init__(
        self, *args: Any, concurrency: Concurrency, progress: Progress, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self._concurrency = concurrency
        self._progress = progress
        self._queues: dict[str, SimpleQueue[Call | PlainCall | None]] = {}
        self._threads: list[threading.Thread] = []
        self._leaving = False
        self._draining = False
        # Guards _busy: the number of calls that wait in the queues or run.  Held for a moment.
        self._busy_lock = threading.Lock()
        self._busy = 0

    def run(self) -> str:
        """Run until the actor is over and its threads are at rest; returns why."""
        for group, limit in self._concurrency.groups.items():
            queue: SimpleQueue[Call | PlainCall | None] = SimpleQueue()
            self._queues[group] = queue
            for number in range(limit):
                name = f"celery-actors-{group or 'calls'}-{number}"
                thread = threading.Thread(target=self._work, args=(queue,), name=name, daemon=True)
                self._threads.append(thread)
                thread.start()
        return super().run()

    def _next(self) -> Any:
        # Commits and acknowledgements go on in the calls' threads and the flusher.
        return self._inbox.get()

    def _take(self, item: Any) -> None:
        self._dispatch(item)
        if self._runner.stop is not None:
            self._wait_for_threads()

    def _dispatch(self, item: Any) -> None:
        if isinstance(item, PlainCall):
            self._progress.begin(PLAIN_CALLER, item.sequence)
            self._enqueue(self._plain.group(item, self._queues), item)
        elif isinstance(item, list):
            for call in item:
                self._progress.begin(call.caller, call.sequence)
                if self._runner.is_special(call):
                    self._runner.do_special(call)
                else:
                    self._enqueue(self._runner.group(call, self._queues), call)
        elif item is not None:  # None: a call is over, see _work
            super()._take(item)

    def _enqueue(self, group: str, call: Call | PlainCall) -> None:
        with self._busy_lock:
            self._busy += 1
        self._queues[group].put(call)

    def _is_busy(self) -> bool:
        with self._busy_lock:
            return self._busy > 0

    def _wait_for_threads(self) -> None:
        """What runs ends first; if the actor did not end itself, also what was submitted.

        What still runs may have called this very actor, and wait for that: such calls run too.
        """
        self._draining = True
        while self._runner.ending is None and self._is_busy():
            self._dispatch(self._inbox.get())
        self._leaving = self._runner.ending is not None
        for group, limit in self._concurrency.groups.items():
            for _ in range(limit):
                self._queues[group].put(None)
        for thread in self._threads:
            if not self._runner.crashed:  # else what they run is lost with the process
                thread.join()

    def _work(self, queue: SimpleQueue[Call | PlainCall | None]) -> None:
        try:
            self._run_calls(queue)
        except BaseException as error:  # noqa: BLE001 - nobody else would see it
            die_of(error)

    def _run_calls(self, queue: SimpleQueue[Call | PlainCall | None]) -> None:
        while (call := queue.get()) is not None:
            if self._leaving:
                continue
            if isinstance(call, PlainCall):
                self._plain.run(call)
            else:
                self._call(call)
            if self._runner.ending is not None:
                self._leaving = True
                self._inbox.put(self._runner.stop)
            with self._busy_lock:
                self._busy -= 1
            if self._draining:
                self._inbox.put(None)
