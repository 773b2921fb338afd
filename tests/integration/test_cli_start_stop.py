"""`celery-actors start | status | stop` as a user types them."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from celery_actors.local import ClusterAddress, persistent
from celery_actors.local.readiness import rabbitmq_answers, redis_answers

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """The command line with a runtime directory of its own, away from the user's clusters."""
    # Not below pytest's own, whose long names leave a unix socket's path no room.
    runtime = Path(tempfile.mkdtemp(prefix="ca-test-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        program = "from celery_actors.cli import main; main()"
        return subprocess.run(
            [sys.executable, "-c", program, *words],
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
            env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)},
        )

    yield run
    run("stop")
    shutil.rmtree(runtime)


def test_a_head_stays_until_it_is_stopped(command: Command) -> None:
    started = command("start", "--head", "--no-node")
    assert started.returncode == 0, started.stderr
    address = persistent.discover()
    assert isinstance(address, ClusterAddress)
    assert address.broker_url in started.stdout
    assert rabbitmq_answers(address.broker_url)
    assert redis_answers(address.result_backend)
    assert address.session_dir is not None
    # What bears that mark is killed with the cluster: no shell should.
    assert "CELERY_ACTORS_SESSION_DIR" not in started.stdout

    shown = command("status")
    assert shown.returncode == 0
    assert "rabbitmq" in shown.stdout

    again = command("start", "--head")
    assert again.returncode == 1
    assert "celery-actors stop" in again.stderr

    assert persistent.discover() == address

    stopped = command("stop")
    assert stopped.returncode == 0, stopped.stderr
    assert not address.session_dir.exists()
    assert persistent.discover() is None
    assert command("status").returncode == 1
    assert "Nothing" in command("stop").stdout


def test_the_state_directory_is_private(command: Command) -> None:
    command("status")
    (state,) = Path(os.environ["XDG_RUNTIME_DIR"]).iterdir()
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    state.chmod(0o755)
    assert persistent.discover() is None
    assert "open to other users" in command("status").stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["start"], "--head or --address"),
        (["start", "--head", "--address", "amqp://h"], "--head or --address"),
        (["start", "--head", "--resources", "disk"], "expected JSON"),
        (["start", "--head", "--labels", "zone=a"], "expected JSON"),
        (["start", "--address", "amqp://h"], "CELERY_RESULT_BACKEND"),
        (
            ["start", "--address", "a", "--result-backend", "r", "--key-file", "/no/such"],
            "no key file",
        ),
    ],
)
def test_wrong_use_is_explained(command: Command, words: list[str], says: str) -> None:
    answer = command(*words)
    assert answer.returncode == 2
    assert says in answer.stderr
