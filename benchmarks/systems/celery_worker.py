"""Stock Celery: one solo worker with a counter in its memory; what it has instead of an actor."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from systems.base import WAIT_SECONDS, FuturePeer

HERE = Path(__file__).resolve().parent.parent


class StockCelery(FuturePeer):
    """The worker, and ``delay()`` as the call."""

    workloads = ("sync", "pipelined")

    def __init__(self) -> None:
        import stock_celery

        self._app = stock_celery.app
        self._increment = stock_celery.increment
        self._worker: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin the worker."""
        command = ["-m", "celery", "-A", "stock_celery", "worker", "--pool", "solo"]
        self._worker = subprocess.Popen(
            [sys.executable, *command, "--loglevel", "WARNING", "--hostname", "bench-stock@%h"],
            cwd=HERE,
            stdin=subprocess.DEVNULL,
        )

    def create(self, kind: str = "counter") -> Any:
        """Return the counter's task; there is one."""
        return self._increment

    def submit(self, target: Any, method: str, *arguments: Any) -> Any:
        """Send the task."""
        return target.delay()

    def get(self, ref: Any) -> Any:
        """Wait for its result."""
        return ref.get(timeout=WAIT_SECONDS)

    def announce(self) -> dict[str, Any]:
        """Return the version."""
        import celery

        return {"version": celery.__version__}

    def stop(self) -> None:
        """End the worker."""
        self._app.close()
        if self._worker is not None:
            self._worker.terminate()
            try:
                self._worker.wait(10)
            except subprocess.TimeoutExpired:
                self._worker.kill()
                self._worker.wait()
