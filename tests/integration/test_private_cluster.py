"""A private cluster starts, keeps others out, and leaves nothing, however its owner ends."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import amqp
import psutil
import pytest
import redis
from leftovers import processes_of
from waiting import wait_until

from benchmarks.broker_node import queues_and_exchanges
from celery_actors.local import LocalClusterError, PrivateCluster
from celery_actors.local import private as private_module
from celery_actors.local.ports import free_ports
from celery_actors.local.readiness import rabbitmq_answers, redis_answers

OWNER = """
import sys, time
from celery_actors.local import PrivateCluster
cluster = PrivateCluster.start(with_node=False)
print(cluster.session_dir, cluster.guardian_pid, flush=True)
sys.stdin.read()
"""


def servers_of(guardian: int) -> list[psutil.Process]:
    """By descent: Redis writes its title over the environment by which others are found."""
    found = []
    for child in psutil.Process(guardian).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # the broker's helpers come and go
            if child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found


def wait_until_gone(
    session: Path, servers: list[psutil.Process], directory: bool = True, seconds: float = 60.0
) -> None:
    deadline = time.monotonic() + seconds
    while True:
        left = [*processes_of(session), *(each for each in servers if each.is_running())]
        if not left and not (directory and session.exists()):
            return
        assert time.monotonic() < deadline, f"left of {session}: {left}"
        time.sleep(0.05)


def owner() -> tuple[subprocess.Popen[str], Path, int]:
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    session, guardian = process.stdout.readline().split()
    return process, Path(session), int(guardian)


def end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_start_and_stop_leave_nothing() -> None:
    said: list[str] = []
    cluster = PrivateCluster.start(with_node=False, progress=said.append)
    session = cluster.session_dir
    assert rabbitmq_answers(cluster.address.broker_url)
    assert redis_answers(cluster.address.result_backend)
    assert stat.S_IMODE(session.stat().st_mode) == 0o700
    assert stat.S_IMODE(cluster.address.key_file.stat().st_mode) == 0o600
    assert len(bytes.fromhex(cluster.address.key_file.read_text())) == 32
    assert said
    servers = servers_of(cluster.guardian_pid)
    assert {"redis-server", "beam.smp", "epmd"} <= {server.name() for server in servers}
    cluster.stop()
    assert not session.exists()
    wait_until_gone(session, servers, seconds=0)
    cluster.stop()  # once more is no error


def test_servers_listen_on_loopback_only_and_no_system_epmd_is_asked(
    brokers: PrivateCluster,
) -> None:
    listening = []
    for process in servers_of(brokers.guardian_pid):
        with suppress(psutil.NoSuchProcess):
            for connection in process.net_connections():
                if connection.status == psutil.CONN_LISTEN:
                    listening.append(connection.laddr)
    assert len(listening) >= 4  # AMQP, Erlang's distribution, epmd, Redis
    assert {address.ip for address in listening} <= {"127.0.0.1", "::1"}


def test_passwords_are_required(brokers: PrivateCluster) -> None:
    address = brokers.address
    host, _, port = address.broker_url.partition("@")[2].rstrip("/").partition(":")
    for user, password in (("guest", "guest"), ("actors", "wrong")):
        connection = amqp.Connection(f"{host}:{port}", userid=user, password=password)
        with pytest.raises(amqp.exceptions.AccessRefused):
            connection.connect()
    location = address.result_backend.partition("@")[2]
    with (
        redis.Redis.from_url(f"redis://{location}") as anonymous,
        pytest.raises(redis.exceptions.AuthenticationError),
    ):
        anonymous.ping()
    assert not redis_answers(f"redis://:wrong@{location}")


def test_no_command_line_shows_a_password(brokers: PrivateCluster) -> None:
    secrets = [
        url.partition("@")[0].rpartition(":")[2]
        for url in (brokers.address.broker_url, brokers.address.result_backend)
    ]
    secrets.append(brokers.address.key_file.read_text().strip())
    secrets.append((brokers.session_dir / "rabbitmq" / ".erlang.cookie").read_text())
    lines = []
    for process in servers_of(brokers.guardian_pid):
        with suppress(psutil.NoSuchProcess):
            lines.append(" ".join(process.cmdline()))
    assert len(lines) >= 4  # supervisord, epmd, RabbitMQ, Redis
    assert not [line for line in lines if any(secret in line for secret in secrets)]


def test_redis_neither_forgets_nor_evicts(brokers: PrivateCluster) -> None:
    with redis.Redis.from_url(brokers.address.result_backend, decode_responses=True) as client:
        config = client.config_get("append*", "maxmemory-policy")
    assert config["appendonly"] == "yes"
    assert config["appendfsync"] == "everysec"
    assert config["maxmemory-policy"] == "noeviction"


def test_killed_owner_leaves_nothing() -> None:
    process, session, guardian = owner()
    servers = servers_of(guardian)
    process.send_signal(signal.SIGKILL)
    wait_until_gone(session, servers)
    end(process)


def test_a_fork_that_keeps_the_lifeline_keeps_nothing_alive() -> None:
    forking = "import os\nchild = os.fork()\nif child == 0: time.sleep(600)\n"
    forking += "print(child, flush=True)\nsys.stdin.read()"
    code = OWNER.replace("sys.stdin.read()", forking)
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    session, guardian = process.stdout.readline().split()
    child = int(process.stdout.readline())
    servers = servers_of(int(guardian))
    process.kill()
    try:
        wait_until_gone(Path(session), servers)
        assert psutil.pid_exists(child)
    finally:
        os.kill(child, signal.SIGKILL)
        end(process)


def test_killed_guardian_leaves_no_process_and_its_directory_is_swept() -> None:
    process, session, guardian = owner()
    servers = servers_of(guardian)
    os.kill(guardian, signal.SIGKILL)
    wait_until_gone(session, servers, directory=False)
    end(process)
    with PrivateCluster.start(with_node=False):
        assert not session.exists()


def test_killed_server_is_started_again(brokers: PrivateCluster) -> None:
    redis_process = next(
        process for process in servers_of(brokers.guardian_pid) if process.name() == "redis-server"
    )
    redis_process.kill()
    redis_process.wait(60)
    wait_until(lambda: redis_answers(brokers.address.result_backend), "Redis started again")


def test_two_clusters_side_by_side(brokers: PrivateCluster) -> None:
    with PrivateCluster.start(with_node=False) as other:
        assert other.session_dir != brokers.session_dir
        connection = amqp.Connection(**_login(other))
        connection.connect()
        connection.channel().queue_declare("only-here")
        assert "only-here" in queues_and_exchanges(other.session_dir)[0]
        assert "only-here" not in queues_and_exchanges(brokers.session_dir)[0]
        connection.close()
    assert rabbitmq_answers(brokers.address.broker_url)


def test_a_taken_port_means_other_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    taken = socket.create_server(("127.0.0.1", 0))
    chosen = iter([[taken.getsockname()[1], *free_ports(3)]])
    monkeypatch.setattr(
        private_module, "free_ports", lambda count: next(chosen, None) or free_ports(count)
    )
    said: list[str] = []
    with taken, PrivateCluster.start(with_node=False, progress=said.append) as cluster:
        assert rabbitmq_answers(cluster.address.broker_url)
    assert any("taken" in text for text in said)


@pytest.mark.parametrize("log", ["rabbitmq.log", "actors@localhost.log"])
def test_a_taken_port_is_seen_in_a_report_of_any_length(tmp_path: Path, log: str) -> None:
    own_log = tmp_path / "actors@localhost.log"
    (tmp_path / log).write_text("starting\n")
    assert not private_module.tells_of_a_taken_port(tmp_path, "rabbitmq", own_log)
    (tmp_path / log).write_text("[error] {tcp,eaddrinuse}\n" + "[error] its state\n" * 500)
    assert private_module.tells_of_a_taken_port(tmp_path, "rabbitmq", own_log)


def test_a_server_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    from celery_actors.local.redis_server import RedisServer

    write = RedisServer.write

    def spoilt(self: RedisServer, program: str) -> list[str]:
        command = write(self, program)
        with (self.directory / "redis.conf").open("a") as configuration:
            configuration.write("no-such-setting yes\n")
        return command

    monkeypatch.setattr(RedisServer, "write", spoilt)
    with pytest.raises(LocalClusterError, match="no-such-setting"):
        PrivateCluster.start(with_node=False)


def _login(cluster: PrivateCluster) -> dict[str, str]:
    credentials, _, location = cluster.address.broker_url.removeprefix("amqp://").partition("@")
    user, _, password = credentials.partition(":")
    return {"host": location.rstrip("/"), "userid": user, "password": password}


DETACHED = """
import celery_actors as ray

ray.init("local", num_cpus=1)

@ray.remote(lifetime="detached")
class Stays:
    def ready(self):
        return True

print(ray.get(Stays.remote().ready.remote()))
"""


def test_a_detached_actor_in_a_private_cluster_warns(tmp_path: Path) -> None:
    script = tmp_path / "detached.py"
    script.write_text(DETACHED)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.stdout == "True\n", done.stderr
    assert "Stays is detached, but this program's cluster is private" in done.stderr
