"""The processes of a private cluster: which is which, and what they cost."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from celery_actors.worker.descendants import Marks

_SESSION_VARIABLE = "CELERY_ACTORS_SESSION_DIR"
_PROBLEM = re.compile(r"\b(ERROR|CRITICAL|Traceback|WARNING)\b|\[error\]|\[warning\]|crash", re.I)
# Said at every start, and of no consequence here.
_HARMLESS = ("Memory overcommit must be enabled", "rebuilding indices from scratch")


@dataclass(frozen=True)
class ClusterProcess:
    """One process, with its kind (``actor Counter``, ``RabbitMQ``, …)."""

    kind: str
    process: psutil.Process

    @property
    def pid(self) -> int:
        return int(self.process.pid)


def cluster_processes(session_dir: str, owner: int | None = None) -> list[ClusterProcess]:
    """Return the processes of the private cluster that process ``owner`` (or this one) began."""
    driver = psutil.Process(owner)
    found = [ClusterProcess("driver", driver)]
    for child in driver.children():
        try:
            command = child.cmdline()
        except psutil.NoSuchProcess:
            continue
        if session_dir not in command:
            continue
        found.append(ClusterProcess("guardian", child))
        for process in child.children(recursive=True):
            try:
                found.append(ClusterProcess(_kind(process), process))
            except psutil.NoSuchProcess:
                continue
    return found


def _kind(process: psutil.Process) -> str:
    name, command = process.name(), " ".join(process.cmdline())
    by_name = {"beam.smp": "RabbitMQ", "redis-server": "Redis", "epmd": "epmd"}
    if name in by_name:
        return by_name[name]
    if "supervisor.supervisord" in command:
        return "supervisord"
    if "celery_actors.worker.forkserver" in command:
        parent = process.parent()
        forked = parent is not None and "celery_actors.worker.forkserver" in parent.cmdline()
        if forked and not Marks.of(process.pid):
            return "sweeper"
        return _kind_of_forked(process) if forked else "fork server"
    if "-A celery_actors worker" in command:
        return "node worker"
    return f"other ({name})"


def _kind_of_forked(process: psutil.Process) -> str:
    """An actor or executor writes to a log file with its name."""
    try:
        target = Path(f"/proc/{process.pid}/fd/1").readlink().name
    except OSError:
        return "actor"
    class_name = target.partition(".")[0]
    return "task executor" if class_name == "tasks" else f"actor {class_name}"


def tree_of(processes: Iterable[ClusterProcess]) -> dict[str, list[ClusterProcess]]:
    """Group processes by kind, in the order in which the kinds are found."""
    groups: dict[str, list[ClusterProcess]] = {}
    for process in processes:
        groups.setdefault(process.kind, []).append(process)
    return groups


def memory_rollup(pid: int) -> dict[str, int]:
    """Return the bytes of ``/proc/<pid>/smaps_rollup`` by name (``Pss``, ``Private_Dirty``…)."""
    amounts = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        amounts[name] = int(rest.split()[0]) * 1024
    return amounts


def log_problems(session_dir: str, most: int = 20) -> list[str]:
    """Return lines of the session's logs that tell of something wrong."""
    found = []
    root = Path(session_dir)
    for path in sorted(root.rglob("*.log*")):
        try:
            lines = path.read_text(errors="replace").splitlines()
        except OSError:
            continue
        found += [
            f"{path.relative_to(root)}: {line[:300]}"
            for line in lines
            if _PROBLEM.search(line) and not any(words in line for words in _HARMLESS)
        ]
    return found[:most] + ([f"… and {len(found) - most} more"] if len(found) > most else [])


def leftovers(session_dir: str) -> list[str]:
    """Return what a cluster that was stopped has left: processes, directories."""
    session = Path(session_dir)
    found = [str(path) for path in (session, Path("/dev/shm") / session.name) if path.exists()]
    mark = f"{_SESSION_VARIABLE}={session_dir}".encode()
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            environment = (directory / "environ").read_bytes().split(b"\0")
            command = (directory / "cmdline").read_bytes().replace(b"\0", b" ")[:120]
        except OSError:
            continue
        if mark in environment:
            found.append(f"process {directory.name} {command.decode(errors='replace')}")
    return found
