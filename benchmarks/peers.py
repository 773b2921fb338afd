"""The systems under test: their virtual environments, and a round of each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from environments import interpreter_of

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE / ".peers"
RESULTS = HERE / "results"
ROUND_SECONDS = {"quick": 150.0, "": 600.0, "full": 1200.0}
STOP_SECONDS = 60.0


class PeerError(Exception):
    """A peer could not be set up, or did not finish its round."""


@dataclass(frozen=True)
class PeerSpec:
    """A peer, and what pip installs for it; nothing: it runs with our own interpreter."""

    name: str
    title: str
    requirements: tuple[str, ...] = ()

    def interpreter(self) -> str:
        """Return the peer's Python; make its virtual environment first, where there is none."""
        if not self.requirements:
            return sys.executable
        first = self.requirements[0]
        directory = ENVIRONMENTS / first.replace("==", "-").replace("[", "-").replace("]", "")
        return interpreter_of(directory, self.requirements, "the benchmark")


NUMPY = f"numpy=={version('numpy')}"
OURS = PeerSpec("ours", "celery_actors")
RAY = PeerSpec("ray", "Ray", ("ray==2.60.0", NUMPY))
XOSCAR = PeerSpec("xoscar", "xoscar", ("xoscar==0.12.2", NUMPY))
DASK = PeerSpec("dask", "dask actors", ("distributed==2026.8.0", "dask==2026.8.0", NUMPY))
# The same Celery that the package runs on.
CELERY = PeerSpec(
    "celery",
    "stock Celery",
    (f"celery[redis]=={version('celery')}", f"redis=={version('redis')}", "hiredis", NUMPY),
)
# Runs with our interpreter: what it needs, this package needs too.
FLOOR = PeerSpec("floor", "the floor")


@dataclass
class Round:
    """What one peer measured in one round."""

    peer: str
    load_before: float
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    announced: dict[str, Any] = field(default_factory=dict)
    stop_seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


@contextmanager
def round_of(
    spec: PeerSpec,
    python: str,
    workloads: Sequence[str],
    *,
    extent: str,
    log: Path,
    environment: dict[str, str] | None = None,
) -> Iterator[Round]:
    """Run a peer's workloads; it stays up within the ``with`` block and is stopped at its end.

    :param extent: ``quick``, ``full``, or nothing.
    :raises PeerError: it failed, gave wrong results or took too long.
    """
    command = [python, str(HERE / "workloads.py"), "--peer", spec.name, "--hold"]
    command += ["--workloads", ",".join(workloads), *([f"--{extent}"] if extent else [])]
    measured = Round(spec.name, os.getloadavg()[0])
    with log.open("ab") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**_clean_environment(spec), **(environment or {})},
            start_new_session=True,
        )
    watchdog = threading.Timer(ROUND_SECONDS[extent], _kill_group, [process])
    watchdog.start()
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        _read_until(process.stdout, measured, "announce")
        if not measured.announced:
            raise PeerError(f"{spec.title} did not finish its round.\n{_tail(log)}")
        yield measured
        begun = time.monotonic()
        process.stdin.close()
        _read_until(process.stdout, measured, "stopped")
        status = process.wait(STOP_SECONDS)
        measured.stop_seconds = time.monotonic() - begun
        if status:
            raise PeerError(f"{spec.title} ended with status {status}.\n{_tail(log)}")
    finally:
        watchdog.cancel()
        if process.poll() is None:
            _kill_group(process)
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def _clean_environment(spec: PeerSpec) -> dict[str, str]:
    """A peer must not find a cluster or broker that is none of the benchmark's.

    This package is the one that the benchmark lies beside, installed or not; processes that
    other systems start find the classes of their actors.
    """
    prefixes = ("CELERY_", "RAY_", "PYTHON")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(prefixes)}
    return {**kept, "PYTHONPATH": str(HERE if spec.requirements else HERE.parent)}


def _read_until(lines: IO[str], measured: Round, last: str) -> None:
    for line in lines:
        message = json.loads(line)
        if "workload" in message:
            measured.results[message.pop("workload")] = message
        if "failed" in message:
            measured.failures.append(f"{measured.peer}, {message['failed']}: {message['why']}")
        measured.announced.update(message.get("announce", {}))
        if last in message:
            return


def _kill_group(process: subprocess.Popen[str]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-25:]
    return "\n".join(lines)
