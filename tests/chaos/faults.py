"""What breaks things, and what tells whether they are whole again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue

import psutil
import redis
from waiting import SECONDS, wait_until

from benchmarks.broker_node import ask_broker
from celery_actors.client.current import require_process
from celery_actors.control import NodeRecord
from celery_actors.local import PrivateCluster
from celery_actors.local.supervisor_client import program_states

LEASE = 10.0
DETECTION = 20.0
"""Janitors look every third of a lease; the rest is for a busy machine."""


def gone(pid: int) -> bool:
    """Whether the process has ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_gone(pids: Iterable[int], what: str, seconds: float = SECONDS) -> None:
    """Wait until the processes have ended."""
    left = set(pids)
    wait_until(lambda: all(gone(pid) for pid in left), f"the end of {what} {sorted(left)}", seconds)


def kill_server(cluster: PrivateCluster, name: str) -> int:
    """`kill -9` one of a cluster's servers; returns its pid."""
    pid = program_states(cluster.session_dir)[name].pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    return pid


def supervisorctl(cluster: PrivateCluster, *words: str) -> None:
    """Tell the cluster's supervisord something, e.g. `stop redis`."""
    program = [sys.executable, "-m", "supervisor.supervisorctl"]
    configuration = str(cluster.session_dir / "supervisord.conf")
    subprocess.run([*program, "-c", configuration, *words], check=True, timeout=90)


@contextmanager
def stopped(node: NodeRecord) -> Iterator[None]:
    """Stop a node worker by SIGSTOP; its lease does not end meanwhile, however long that takes."""
    process = require_process()
    os.kill(node.pid, signal.SIGSTOP)
    try:
        seconds, _ = process.redis.time()  # type: ignore[misc]
        leases = f"{process.settings.prefix}nodes"
        process.redis.zadd(leases, {node.node_id: (seconds + 600) * 1000})  # or its next renewal
        yield
    finally:
        os.kill(node.pid, signal.SIGCONT)


def broker_has_all() -> None:
    """Return when the broker has done all that this process has sent."""
    mailbox = require_process().mailbox
    with mailbox.lock:
        mailbox._need_channel().basic_qos(0, 0, False)  # its answer comes behind all of it


def wait_restarted(cluster: PrivateCluster, name: str, old: int, seconds: float = 90.0) -> None:
    """Wait until supervisord has started the server again."""

    def restarted() -> bool:
        state = program_states(cluster.session_dir).get(name)
        return state is not None and state.state == "RUNNING" and state.pid not in (0, old)

    wait_until(restarted, f"{name} started again by supervisord", seconds)


def check_streams(entries: Iterable[tuple[str, int]], counts: Mapping[str, int]) -> None:
    """Every caller's calls ran once each, in the order in which they were made."""
    seen: dict[str, list[int]] = {name: [] for name in counts}
    for caller, n in entries:
        seen[caller].append(n)
    for caller, count in counts.items():
        wrong = next((i for i, n in enumerate(seen[caller]) if i != n), None)
        assert wrong is None, f"{caller}: at {wrong} ran {seen[caller][wrong : wrong + 5]}"
        assert len(seen[caller]) == count, f"{caller}: {len(seen[caller])} ran of {count}"


def unacknowledged(cluster: PrivateCluster, queue: str) -> int:
    """How many messages of a queue are delivered and not acknowledged."""
    return _of_queue(cluster, queue, "messages_unacknowledged")


def messages(cluster: PrivateCluster, queue: str) -> int:
    """How many messages a queue holds, delivered and not acknowledged or not."""
    return _of_queue(cluster, queue, "messages")


def consumers(cluster: PrivateCluster, queue: str) -> int:
    """How many consumers a queue has; 0 if it is not there."""
    return _of_queue(cluster, queue, "consumers")


def _of_queue(cluster: PrivateCluster, queue: str, what: str) -> int:
    answer = ask_broker(
        cluster.session_dir,
        f'case rabbit_amqqueue:lookup(rabbit_misc:r(<<47>>, queue, <<"{queue}">>)) of'
        f" {{ok, Q}} -> [{{_, N}}] = rabbit_amqqueue:info(Q, [{what}]), N; _ -> 0 end.",
    )
    return int(answer.removeprefix("{ok, ").removesuffix("}"))


def close_amqp_connections(cluster: PrivateCluster) -> None:
    """The broker closes every client's connection; some may have ended since it listed them."""
    ask_broker(
        cluster.session_dir,
        '[(catch rabbit_networking:close_connection(P, "test"))'
        " || P <- rabbit_networking:connections()].",
    )


def cut_redis(client: redis.Redis, kind: str = "normal") -> int:
    """Redis closes the clients' sockets of a kind (`normal`, `pubsub`); returns how many."""
    killed: int = client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")  # type: ignore[no-untyped-call]
    return killed


class Program:
    """A driver of its own process: a script that is told lines and answers lines."""

    def __init__(self, script: str, cluster: PrivateCluster | None = None, *arguments: str) -> None:
        paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        environment["PYTHONUNBUFFERED"] = "1"
        if cluster is not None:
            environment.update(cluster.address.environment())
        self._process = subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))

    def hear(self, what: str, seconds: float = 60.0) -> str:
        """Return the next line; fail, naming what was to be said."""
        try:
            return self._lines.get(timeout=seconds)
        except Empty:
            raise AssertionError(
                f"{seconds:g} s went by and the program did not say: {what} "
                f"(its status is {self._process.poll()})"
            ) from None

    def tell(self, line: str = "") -> None:
        """Send a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def signal(self, number: int) -> None:
        """Send a signal to the driver alone."""
        self._process.send_signal(number)

    def wait(self, seconds: float = 60.0) -> int:
        """Return the exit status."""
        return self._process.wait(seconds)

    def close(self) -> None:
        """End it if it still runs, and close the pipes."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join(5)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
