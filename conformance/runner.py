"""Runs all cases and programs on one implementation; a hang or a crash costs one case."""

from __future__ import annotations

import json
import queue
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from conformance.case import Case
from conformance.catalog import program_text
from conformance.implementations import Implementation, kill_group, stop

__all__ = ["run_cases", "run_program"]

HERE = Path(__file__).resolve().parent
_START_SECONDS = 60.0
_GRACE_SECONDS = 5.0
_PROGRAM_SECONDS = 90.0
# What a cluster says of itself among a program's own lines: `(raylet) …`, `(Worker pid=7) …`.
_CLUSTER_LINE = re.compile(r"^(\x1b\[\d+m)?\((raylet|[^()]*pid=\d+[^()]*)\).*\n?", re.MULTILINE)

Report = Callable[[str, dict[str, Any]], None]


def run_cases(
    implementation: Implementation,
    cases: Sequence[Case],
    environment: Mapping[str, str],
    log: Path,
    report: Report,
) -> None:
    """Run cases of one subject; ``report`` gets each one's id and result as it comes."""
    left = list(cases)
    while left:
        told = _Worker(implementation, left, environment, log).run(report)
        if told == 0:  # not even one: it would go on like that
            problem = {"outcome": "crash", "detail": f"no session: see {log}", "seconds": 0.0}
            for one in left:
                report(one.id, problem)
            return
        left = left[told:]


class _Worker:
    """A process that runs cases; what it says is read with a deadline."""

    def __init__(
        self,
        implementation: Implementation,
        cases: Sequence[Case],
        environment: Mapping[str, str],
        log: Path,
    ) -> None:
        self._cases = cases
        names = [one.name for one in cases]
        command = [implementation.interpreter(), "-m", "conformance.worker"]
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [*command, implementation.package, cases[0].subject, *names],
                cwd=HERE.parent,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def run(self, report: Report) -> int:
        """Return how many cases it has dealt with, in their order."""
        told = 0
        limit, begun = _START_SECONDS, time.monotonic()
        under_way = ""
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, begun + limit - time.monotonic()))
            except queue.Empty:
                kill_group(self._process)
                outcome, detail = "timeout", "it hung so that its process had to be killed"
                break
            if not line:
                status = self._process.wait()
                outcome, detail = "crash", f"the process ended with status {status}"
                break
            message = json.loads(line)
            if "over" in message:
                stop(self._process)
                return told
            if "begin" in message:
                under_way = message["begin"]
                limit, begun = message["seconds"] + _GRACE_SECONDS, time.monotonic()
            elif "case" in message:
                report(self._cases[told].id, _without(message, "case"))
                told += 1
                under_way, limit, begun = "", _START_SECONDS, time.monotonic()
        if under_way:
            seconds = round(time.monotonic() - begun, 2)
            problem = {"outcome": outcome, "detail": detail, "seconds": seconds}
            report(self._cases[told].id, problem)
            told += 1
        return told


def _without(message: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in message.items() if name != key}


def run_program(
    implementation: Implementation, path: Path, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Run a program with the import of this implementation; returns its result as a case's."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cf-") as folder:
        script = Path(folder) / path.name
        script.write_text(program_text(path, implementation.package), encoding="utf-8")
        try:
            done = subprocess.run(
                [implementation.interpreter(), "-u", str(script)],
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_PROGRAM_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            outcome, detail = "timeout", f"after {error.timeout:.0f} s"
        else:
            expected = path.with_suffix(".out").read_text(encoding="utf-8")
            if done.returncode:
                outcome = "fail"
                detail = f"status {done.returncode}: {done.stderr[-1500:]}"
            elif _CLUSTER_LINE.sub("", done.stdout) != expected:
                outcome, detail = "fail", f"printed:\n{done.stdout}instead of:\n{expected}"
            else:
                outcome, detail = "pass", ""
    return {
        "outcome": outcome,
        "detail": detail,
        "seconds": round(time.monotonic() - begun, 2),
    }
