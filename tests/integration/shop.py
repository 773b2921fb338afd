"""A user's own Celery app, and a worker of it that is a node of the cluster."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celery import Celery

from celery_actors.local import PrivateCluster
from celery_actors.local.address import BACKEND_VARIABLE, BROKER_VARIABLE

_STOP_SECONDS = 60.0
_MODULE = """
import pickle
from pathlib import Path

from celery import Celery

import celery_actors

app = Celery("shop")
app.conf.update(pickle.loads(Path(__file__).with_name("settings").read_bytes()))
celery_actors.install(app)


@app.task(name="double")
def double(n):
    return 2 * n
"""


class Shop:
    """An app whose settings say all: there are no variables that name the brokers.

    :ivar app: for the test's own process.
    :ivar log: of the worker.
    """

    def __init__(self, folder: Path, cluster: PrivateCluster, settings: Mapping[str, Any]) -> None:
        self._folder = folder
        self.log = folder / "worker.log"
        address = cluster.address
        self._settings = {
            "broker_url": address.broker_url,
            "result_backend": address.result_backend,
            "actors_key_file": str(address.key_file),
            "actors_shared_memory_dir": str(address.shared_memory_dir),
            "task_default_queue": "celery_actors",
            "worker_pool": "solo",
            **settings,
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "settings").write_bytes(pickle.dumps(self._settings))
        (folder / "shop_app.py").write_text(_MODULE)
        self.app = Celery("shop", set_as_current=False)
        self.app.conf.update(self._settings)

    @contextmanager
    def worker(self, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a worker of the app."""
        unset = (BROKER_VARIABLE, BACKEND_VARIABLE)
        command = [sys.executable, "-m", "celery", "-A", "shop_app", "worker", "-l", "INFO"]
        with self.log.open("wb") as output:
            worker = subprocess.Popen(
                [*command, *options],
                cwd=self._folder,
                env={name: value for name, value in os.environ.items() if name not in unset},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield worker
        finally:
            self.app.close()
            worker.terminate()
            try:
                worker.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()

    def answers(self, prefix: str) -> bool:
        """Whether a worker whose name begins so answers to Celery's remote control."""
        names = self.app.control.inspect(timeout=2).ping() or {}
        return any(name.startswith(prefix) for name in names)

    def logged(self) -> str:
        """What the worker has logged."""
        return self.log.read_text(errors="replace")
