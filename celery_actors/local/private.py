"""The private cluster: begun by one process, gone with it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from celery_actors.local import guardian as guardian_module
from celery_actors.local.address import ClusterAddress
from celery_actors.local.descriptors import open_standard_descriptors
from celery_actors.local.errors import LocalClusterError, PortTakenError
from celery_actors.local.node_options import NodeOptions
from celery_actors.local.ports import free_ports
from celery_actors.local.rabbitmq import RabbitMQInstallation, RabbitMQNode
from celery_actors.local.readiness import rabbitmq_answers, redis_answers
from celery_actors.local.redis_server import RedisServer, find_redis
from celery_actors.local.session import KEY_NAME, create_session, remove_session
from celery_actors.local.supervision import (
    EPMD,
    NODE,
    RABBITMQ,
    REDIS,
    Program,
    node_program,
    write_configuration,
)
from celery_actors.local.supervisor_client import program_states

START_SECONDS = 90.0
_ATTEMPTS = 4
_STOP_SECONDS = 20.0
_LAST_LINES = 40  # what an error quotes of each log
_PORT_TAKEN = ("eaddrinuse", "address already in use", "could not create server tcp listening")

Progress = Callable[[str], None]


class PrivateCluster:
    """RabbitMQ, Redis and (unless told otherwise) a node worker, in one session directory.

    A context manager. The processes end when `stop` is called or, with a lifeline, when the process
    that started them ends, however it ends.
    """

    def __init__(
        self, address: ClusterAddress, guardian: subprocess.Popen[bytes], lifeline: int | None
    ) -> None:
        self.address = address
        self._guardian = guardian
        self._lifeline = lifeline
        self._owner = os.getpid()

    @classmethod
    def start(
        cls,
        node: NodeOptions | None = None,
        *,
        with_node: bool = True,
        progress: Progress | None = None,
        lifeline: bool = True,
    ) -> PrivateCluster:
        """Start a cluster; returns when both servers serve.

        The node worker starts beside them and may still be on its way.

        :param lifeline: the cluster ends with this process; without, it stays until it is stopped.
        :raises LocalClusterError: a server is not installed or did not start, with its last words.
        """
        open_standard_descriptors()
        report = progress if progress is not None else _report_nothing
        rabbitmq, redis = RabbitMQInstallation.find(), find_redis()
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return cls._start_once(
                    rabbitmq, redis, node or NodeOptions(), with_node, report, lifeline
                )
            except PortTakenError:
                if attempt == _ATTEMPTS:
                    raise
                report("a chosen port was taken meanwhile; trying others")
        raise AssertionError("unreachable")

    @classmethod
    def _start_once(
        cls,
        rabbitmq: RabbitMQInstallation,
        redis: str,
        node: NodeOptions,
        with_node: bool,
        report: Progress,
        lifeline: bool,
    ) -> PrivateCluster:
        session, lock = create_session()
        try:
            amqp_port, epmd_port, distribution_port, redis_port = free_ports(4)
            broker = RabbitMQNode.plan(session, (amqp_port, epmd_port, distribution_port))
            store = RedisServer.plan(session, redis_port)
            programs = []
            if rabbitmq.epmd is not None and rabbitmq.starts_directly:
                listen = ["-port", str(epmd_port), "-address", "127.0.0.1"]
                programs.append(Program(EPMD, [rabbitmq.epmd, *listen], priority=5))
            programs.append(Program(RABBITMQ, broker.write(rabbitmq), priority=10))
            programs.append(Program(REDIS, store.write(redis), priority=20))
            if with_node:
                programs.append(node_program(node.worker_argv(), stop_signal="KILL"))
            write_configuration(session, programs)
            address = ClusterAddress(broker.url, store.url, session / KEY_NAME, session)
            guardian, pipe = start_guardian(session, lock, address.environment(), lifeline)
        except BaseException:
            remove_session(session)
            raise
        finally:
            os.close(lock)
        cluster = cls(address, guardian, pipe)
        try:
            cluster._wait_until_ready(report, {RABBITMQ: broker.log, REDIS: store.log})
        except BaseException:
            # Ctrl-C while it starts must leave as little behind as a failure.
            cluster.stop()
            raise
        return cluster

    def _wait_until_ready(self, report: Progress, logs: dict[str, Path]) -> None:
        session = self.session_dir
        waiting: dict[str, Callable[[], bool]] = {
            REDIS: lambda: redis_answers(self.address.result_backend),
            RABBITMQ: lambda: rabbitmq_answers(self.address.broker_url),
        }
        deadline = time.monotonic() + START_SECONDS
        next_look = time.monotonic() + 0.5
        first_pids: dict[str, int] = {}
        while waiting:
            report(f"starting {' and '.join(sorted(waiting))}")
            for name in [name for name, answers in waiting.items() if answers()]:
                del waiting[name]
            if not waiting:
                return
            now = time.monotonic()
            if now >= next_look:
                next_look = now + 0.5
                self._fail_if_one_died(session, logs, first_pids)
            if now > deadline:
                names = " and ".join(sorted(waiting))
                tails = "\n".join(_last_words(session, name, logs.get(name)) for name in waiting)
                raise LocalClusterError(
                    f"{names} did not accept connections in {START_SECONDS:.0f} s.\n{tails}"
                )
            time.sleep(0.02)  # bounded polling of outside processes, until the deadline above

    def _fail_if_one_died(
        self, session: Path, logs: dict[str, Path], first_pids: dict[str, int]
    ) -> None:
        if self._guardian.poll() is not None:
            raise LocalClusterError(
                f"the cluster's supervisor ended with status {self._guardian.returncode}.\n"
                + _last_words(session, "supervisord", None)
            )
        for name, state in program_states(session).items():
            if name == NODE:
                continue
            # supervisord starts a dead program again at once: another pid says so afterwards too.
            started_again = state.pid and first_pids.setdefault(name, state.pid) != state.pid
            if state.failed or started_again:
                words = _last_words(session, name, logs.get(name))
                taken = tells_of_a_taken_port(session, name, logs.get(name))
                kind = PortTakenError if taken else LocalClusterError
                raise kind(f"{name} ended while it started ({state.description}).\n{words}")

    @property
    def session_dir(self) -> Path:
        """The directory with all of the cluster's files."""
        directory = self.address.session_dir
        assert directory is not None  # a local cluster's address always has one
        return directory

    @property
    def guardian_pid(self) -> int:
        """The process whose end is the cluster's end."""
        return self._guardian.pid

    def stop(self) -> None:
        """End every process and remove the directory. Idempotent; a forked child may not."""
        if os.getpid() != self._owner:
            return
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
        if self._guardian.poll() is None:
            self._guardian.terminate()
            try:
                self._guardian.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._guardian.kill()
                self._guardian.wait()
        remove_session(self.session_dir)

    def __enter__(self) -> PrivateCluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<PrivateCluster {self.session_dir} guardian={self._guardian.pid}>"


def start_guardian(
    session: Path, lock: int, environment: dict[str, str], lifeline: bool
) -> tuple[subprocess.Popen[bytes], int | None]:
    """Start the guardian of a written session; returns it and our end of its pipe."""
    command = [sys.executable, "-I", guardian_module.__file__, "--session", str(session)]
    inherited = [lock]  # held by the guardian from here on, see session.py
    ours: int | None = None
    theirs: int | None = None
    if lifeline:
        theirs, ours = os.pipe()
        inherited.append(theirs)
        command += ["--lifeline", str(theirs), "--owner", str(os.getpid())]
    try:
        with (session / "guardian.log").open("ab") as log:
            guardian = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
                pass_fds=inherited,
                # Ctrl-C on the terminal is the owner's to handle.
                start_new_session=True,
            )
    except BaseException:
        if ours is not None:
            os.close(ours)
        raise
    finally:
        if theirs is not None:
            os.close(theirs)
    return guardian, ours


def tells_of_a_taken_port(session: Path, name: str, own_log: Path | None) -> bool:
    """Whether a program that ended while it started had found one of its ports taken."""
    # Whole logs: RabbitMQ names the reason first, and prints up to some hundred lines after it.
    logs = _logs(session, name, own_log)
    return any(mark in text.lower() for _, text in logs for mark in _PORT_TAKEN)


def _last_words(session: Path, name: str, own_log: Path | None) -> str:
    logs = _logs(session, name, own_log)
    ends = [(path, "\n".join(text.splitlines()[-_LAST_LINES:])) for path, text in logs]
    texts = [f"--- the end of {path.relative_to(session)}\n{end}" for path, end in ends if end]
    return "\n".join(texts) or f"({name} wrote no log)"


def _logs(session: Path, name: str, own_log: Path | None) -> list[tuple[Path, str]]:
    """What a program and its guardian wrote.  Redis has two logs of one name."""
    paths = (session / f"{name}.log", own_log, session / "guardian.log")
    return [
        (path, path.read_text(encoding="utf-8", errors="replace"))
        for path in paths
        if path is not None and path.exists()
    ]


def _report_nothing(_: str) -> None:
    """Where nobody watches the start."""
