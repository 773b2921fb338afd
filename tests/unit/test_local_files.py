"""What a local cluster writes, chooses and reads, without starting one."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path

import pytest

from celery_actors.local import (
    ClusterAddress,
    LocalClusterError,
    NodeOptions,
    PrivateCluster,
    fast_boot,
    persistent,
    rabbitmq,
    redis_server,
    session,
)
from celery_actors.local.ports import free_ports
from celery_actors.local.rabbitmq import RabbitMQInstallation, RabbitMQNode
from celery_actors.local.readiness import rabbitmq_answers, redis_answers
from celery_actors.local.redis_server import RedisServer
from celery_actors.local.supervision import Program, node_program, write_configuration
from celery_actors.local.supervisor_client import program_states


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # A short path, as the real places are; pytest's own may be too long for a unix socket.
    directory = tmp_path / "r"
    directory.mkdir(mode=0o700)
    monkeypatch.setattr(session, "_LONGEST_ROOT", 200)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    return directory


def test_node_options_become_worker_options() -> None:
    node = NodeOptions("n1", num_cpus=2, num_gpus=0.5, resources={"disk": 3}, memory=1024)
    assert node.worker_argv() == [
        *("--node-name", "n1", "--num-cpus", "2", "--num-gpus", "0.5"),
        *("--resources", '{"disk": 3, "memory": 1024}'),
    ]
    assert NodeOptions(labels={"zone": "a"}).worker_argv() == ["--labels", '{"zone": "a"}']
    assert NodeOptions().worker_argv() == []


def test_negative_resources_are_refused() -> None:
    with pytest.raises(ValueError, match="disk"):
        NodeOptions(resources={"disk": -1})


def test_an_address_hides_its_passwords_and_names_its_variables(tmp_path: Path) -> None:
    address = ClusterAddress("amqp://u:secret@h//", "redis://:secret@h/0", tmp_path / "key")
    assert "secret" not in repr(address)
    assert address.environment()["CELERY_ACTORS_KEY_FILE"] == str(tmp_path / "key")
    assert "CELERY_ACTORS_SESSION_DIR" not in address.environment()


def test_ports_are_distinct_and_below_the_ephemeral_ones() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert all(1024 < port < 60000 for port in ports)


def test_a_session_is_private_held_and_swept_when_abandoned(runtime: Path) -> None:
    directory, lock = session.create_session()
    assert directory.parent == runtime
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "key").stat().st_mode) == 0o600
    assert session.is_held(directory)
    assert session.sweep_abandoned(runtime) == []
    os.close(lock)
    assert not session.is_held(directory)
    assert session.sweep_abandoned(runtime) == [directory]
    assert not directory.exists()


def test_an_open_state_directory_vouches_for_nothing(runtime: Path) -> None:
    state = session.user_state_dir()
    assert persistent.discover() is None
    state.chmod(0o755)
    with pytest.raises(PermissionError):
        session.user_state_dir()
    assert persistent.discover() is None


def test_a_record_of_a_cluster_that_is_gone_is_not_discovered(runtime: Path) -> None:
    record = {"kind": "head", "broker_url": "b", "result_backend": "r", "key_file": "k"}
    record |= {"session_dir": str(runtime / "gone"), "guardian_pid": "1"}
    (session.user_state_dir() / "gone.json").write_text(json.dumps(record))
    assert persistent.discover() is None
    assert persistent.status() == []
    assert persistent.stop() == []


def test_redis_is_configured_to_keep_everything(tmp_path: Path) -> None:
    server = RedisServer.plan(tmp_path, 1234)
    command = server.write("redis-server")
    lines = Path(command[1]).read_text().splitlines()
    assert f"requirepass {server.password}" in lines
    assert "bind 127.0.0.1" in lines
    assert "maxmemory-policy noeviction" in lines
    assert "appendfsync everysec" in lines
    assert server.password not in " ".join(command)


@pytest.mark.parametrize("starts_directly", [True, False])
def test_rabbitmq_files_are_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starts_directly: bool
) -> None:
    monkeypatch.setattr(rabbitmq, "find_program", lambda name: f"/bin/{name}")
    monkeypatch.setattr(fast_boot, "boot_arguments", lambda erl, home: None)
    home = tmp_path / "home" if starts_directly else None
    installation = RabbitMQInstallation(Path("/bin/rabbitmq-server"), home, "/bin/epmd")
    node = RabbitMQNode.plan(tmp_path, (1, 2, 3))
    command = node.write(installation)
    for path in (tmp_path / "rabbitmq").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    script = Path(command[1]).read_text()
    assert node.password not in script
    assert ("/bin/erl" in script) == starts_directly
    assert "listeners.tcp.local = 127.0.0.1:1" in (node.directory / "rabbitmq.conf").read_text()


def test_what_cannot_be_prepared_starts_the_ordinary_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert fast_boot.boot_arguments("/no/such/bin/erl", tmp_path) is None


def test_missing_servers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rabbitmq, "find_program", lambda name: None)
    with pytest.raises(LocalClusterError, match="apt-get install rabbitmq-server"):
        PrivateCluster.start()
    monkeypatch.setattr(redis_server, "find_program", lambda name: None)
    with pytest.raises(LocalClusterError, match="apt-get install redis-server"):
        redis_server.find_redis()


def test_supervisord_reads_back_what_is_written(tmp_path: Path) -> None:
    argv = NodeOptions("50%", resources={"a b": 1}).worker_argv()
    programs = [Program("one", ["/bin/true", "a b", "50%"], priority=1), node_program(argv)]
    write_configuration(tmp_path, programs)
    configuration = RawConfigParser()
    configuration.read(tmp_path / "supervisord.conf")
    assert stat.S_IMODE((tmp_path / "supervisord.conf").stat().st_mode) == 0o600

    def words(program: str) -> list[str]:
        return shlex.split(configuration[f"program:{program}"]["command"].replace("%%", "%"))

    assert words("one")[-3:] == ["/bin/true", "a b", "50%"]
    node = words("node")
    assert node[node.index("--node-name") :][: len(argv)] == argv
    assert configuration["program:node"]["stopsignal"] == "TERM"


def test_nobody_there_is_no_error(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    assert not redis_answers(f"redis://:p@127.0.0.1:{port}/0")
    assert not rabbitmq_answers(f"amqp://u:p@127.0.0.1:{port}//")
    assert program_states(tmp_path) == {}


def test_local_imports_no_celery() -> None:
    code = (
        "import sys, types; package = types.ModuleType('celery_actors')\n"
        f"package.__path__ = [{str(Path(session.__file__).parents[1])!r}]\n"
        "sys.modules['celery_actors'] = package\n"
        "import celery_actors.cli, celery_actors.local.persistent\n"
        "print(*{'celery', 'kombu', 'redis', 'amqp', 'rich'} & set(sys.modules))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == ""
