"""The two that run the cases: their interpreters, environments and clusters."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.environments import interpreter_of

__all__ = ["IMPLEMENTATIONS", "OURS", "RAY", "ClusterFailed", "Implementation", "stop"]

HERE = Path(__file__).resolve().parent
_STOP_SECONDS = 30.0
_RAY_TOKEN = secrets.token_hex(16)


class ClusterFailed(Exception):
    """A cluster to run the cases on did not come up."""


@dataclass(frozen=True)
class Implementation:
    """One that runs the cases.

    :ivar package: what a program imports.
    :ivar requirements: what pip installs for it; nothing: it runs with our own interpreter.
    """

    name: str
    title: str
    package: str
    requirements: tuple[str, ...] = ()

    def interpreter(self) -> str:
        """Return its Python; make its virtual environment first, where there is none."""
        if not self.requirements:
            return sys.executable
        return interpreter_of(HERE / f".{self.name}", self.requirements, "the conformance suite")

    @contextmanager
    def cluster(self, log: Path) -> Iterator[dict[str, str]]:
        """Keep a cluster up; yields the environment in which ``init()`` finds it.

        :raises ClusterFailed: it did not start.
        """
        # Short: sockets lie below it.  The user's own clusters are not to be seen.
        with tempfile.TemporaryDirectory(prefix="cf-", ignore_cleanup_errors=True) as runtime:
            environment = clean_environment(XDG_RUNTIME_DIR=runtime)
            with log.open("ab") as errors:
                process = subprocess.Popen(
                    [self.interpreter(), "-m", "conformance.cluster", self.package],
                    cwd=HERE.parent,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    start_new_session=True,
                )
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                line = process.stdout.readline()
                if not line:
                    raise ClusterFailed(f"{self.title} started no cluster: see {log}")
                yield {**environment, **json.loads(line)}
            finally:
                process.stdin.close()
                stop(process)
                process.stdout.close()


def clean_environment(**more: str) -> dict[str, str]:
    """Return an environment without the clusters that this shell knows of."""
    prefixes = ("CELERY_", "RAY_", "PYTHON")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(prefixes)}
    return {
        **kept,
        # Processes of the cluster import the checks' helpers, as those of a program would its own.
        "PYTHONPATH": str(HERE.parent),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Else Ray makes a token of its own in the user's home.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": _RAY_TOKEN,
        **more,
    }


def stop(process: subprocess.Popen[str]) -> None:
    """Wait for a process that was asked to end; kill its group when it does not."""
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        kill_group(process)


def kill_group(process: subprocess.Popen[str]) -> None:
    """Kill a process with all that it started."""
    with suppress(ProcessLookupError):  # it has ended meanwhile
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


OURS = Implementation("ours", "celery_actors", "celery_actors")
RAY = Implementation("ray", "Ray", "ray", ("ray[default]==2.60.0", "numpy", "gymnasium", "joblib"))
IMPLEMENTATIONS: Sequence[Implementation] = (RAY, OURS)
