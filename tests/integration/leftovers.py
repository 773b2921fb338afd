"""What a test module left behind: processes, queues, exchanges, Redis keys, shared memory."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

import psutil
import redis

from benchmarks.broker_node import queues_and_exchanges
from celery_actors.local import PrivateCluster
from celery_actors.local.address import SESSION_DIR_VARIABLE
from celery_actors.store.owners import lives

# What may stay, and why. Anything else is a leak.
ALLOWED_EXCHANGES = (
    "amq.*",  # RabbitMQ's own
    "celery*",  # Celery's default exchange and those of its remote control and events: durable,
    "reply.celery*.pidbox",  # declared by every worker, removed by none
)
ALLOWED_QUEUES = (
    "celery",  # the default queue of a Celery worker, durable
    "celery_actors",  # the same of our own app's
)
ALLOWED_KEYS: tuple[str, ...] = ()
SHARED_MEMORY = Path("/dev/shm")
SHARED_MEMORY_PREFIX = "ca-"
_OWN_FAULT = re.compile(r"an error in the background thread|an error of celery_actors itself")
_LINES_OF_A_FAULT = 40


def leftovers(brokers: PrivateCluster, shared_memory_before: Iterable[str] = ()) -> list[str]:
    """Name everything in or around the cluster that is none of the servers' own."""
    found = [f"process {line}" for line in foreign_processes(brokers)]
    queues, exchanges = queues_and_exchanges(brokers.session_dir)
    found += [f"queue {name}" for name in queues if not _matches(name, ALLOWED_QUEUES)]
    found += [f"exchange {name}" for name in exchanges if not _matches(name, ALLOWED_EXCHANGES)]
    with redis.Redis.from_url(brokers.address.result_backend) as client:
        keys = sorted(key.decode(errors="replace") for key in client.scan_iter(count=1000))
        keys = [key for key in keys if not _expires_by_design(client, key)]
    found += [f"Redis key {name}" for name in keys if not _matches(name, ALLOWED_KEYS)]
    left = set(shared_memory_files(brokers)) - set(shared_memory_before)
    found += [f"file {SHARED_MEMORY / name}" for name in sorted(left)]
    return found


def wait_for_none(
    brokers: PrivateCluster, shared_memory_before: Iterable[str], seconds: float
) -> list[str]:
    """Give what is on its way out so long; returns what is left then."""
    deadline = time.monotonic() + seconds
    before = tuple(shared_memory_before)
    while True:
        left = leftovers(brokers, before)
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.1)  # bounded polling of outside processes


def _expires_by_design(client: redis.Redis, key: str) -> bool:
    """A dead detached actor can be asked after for ten minutes, also when its job is over."""
    if not 0 < int(client.ttl(key)) <= 600:
        return False
    if fnmatchcase(key, "ca:actor:*") or fnmatchcase(key, "ca:cur:*"):
        actor_id = key.rpartition(":")[2]
        return client.hget(f"ca:actor:{actor_id}", "detached") == b"1"
    if fnmatchcase(key, "ca:job:*:dead") or key == "ca:actors":
        members = client.zrange(key, 0, -1)
        return all(client.hget(f"ca:actor:{m.decode()}", "detached") == b"1" for m in members)
    return False


def forget_expiring(brokers: PrivateCluster) -> None:
    """Delete what would expire by itself: the next module on these brokers is to see none of it."""
    with redis.Redis.from_url(brokers.address.result_backend) as client:
        found = [key.decode(errors="replace") for key in client.scan_iter(count=1000)]
        expiring = [key for key in found if _expires_by_design(client, key)]
        if expiring:
            client.delete(*expiring)


def foreign_processes(brokers: PrivateCluster) -> list[str]:
    """Processes that belong to the cluster and are not its servers."""
    guardian = psutil.Process(brokers.guardian_pid)
    own = {guardian.pid, *(child.pid for child in guardian.children(recursive=True))}
    found = []
    for process in processes_of(brokers.session_dir):
        if process.pid not in own:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended by now
                found.append(f"{process.pid} {' '.join(process.cmdline())[:160]}")
    return found


def processes_of(session: Path) -> list[psutil.Process]:
    """Living processes whose environment names the session directory."""
    mark = f"{SESSION_DIR_VARIABLE}={session}".encode()
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            environment = (directory / "environ").read_bytes()
        except OSError:
            continue
        if mark in environment.split(b"\0"):
            try:
                process = psutil.Process(int(directory.name))
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
    return found


def shared_memory_files(brokers: PrivateCluster) -> list[str]:
    """Files of the cluster in shared memory: in its own directory, and outside.

    Outside lie files of processes that were told of no session, of whatever cluster.  One whose
    owner lives is another cluster's: an owner of ours is found among the processes.
    """
    if not SHARED_MEMORY.is_dir():
        return []
    own = (SHARED_MEMORY / brokers.session_dir.name).glob(f"{SHARED_MEMORY_PREFIX}*")
    outside = [
        path
        for path in SHARED_MEMORY.glob(f"{SHARED_MEMORY_PREFIX}*")
        if not path.name.startswith("ca-test-")  # of unit tests that run beside these
        and not lives(SHARED_MEMORY, path.name)
    ]
    return [str(path.relative_to(SHARED_MEMORY)) for path in (*own, *outside)]


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def own_faults(logs: Iterable[Path]) -> list[str]:
    """Return what a node and its actors have logged of this package's own errors."""
    found = []
    for path in logs:
        lines = path.read_text(errors="replace").splitlines()
        for number, line in enumerate(lines):
            if _OWN_FAULT.search(line):
                found.append("\n".join(lines[number : number + _LINES_OF_A_FAULT]))
    return found
