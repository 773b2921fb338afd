"""Programs as people start them: flags, directories, variables, limits, closed descriptors.

A program starts a private cluster where that could matter for the start; the others, whose start
could not tell the difference, use the cluster that is there.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from fixture_types import StartNode
from waiting import wait_until

import celery_actors
from celery_actors.local import PrivateCluster
from celery_actors.session import SessionInfo

PROGRAM = """
import os
import celery_actors as ray

def main():
    if "CELERY_BROKER_URL" in os.environ:
        ray.init()
    else:
        ray.init("local", num_cpus=1)

    @ray.remote
    class Actor:
        def ask(self):
            print("from the actor")
            return __debug__

    @ray.remote
    def increment(x):
        return x + 1

    debug = ray.get(Actor.remote().ask.remote(), timeout=60)
    assert ray.get(increment.remote(1), timeout=60) == 2
    ray.shutdown()
    with open(os.environ["RESULT"], "w") as file:
        file.write(str(debug))

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


@pytest.fixture(scope="module")
def shared(
    brokers: PrivateCluster, driver: SessionInfo, start_node: StartNode
) -> dict[bytes, bytes]:
    """The variables by which a program finds the cluster that is there."""
    start_node("programs", num_cpus=1)
    wait_until(celery_actors.nodes, "the node")
    environment = brokers.address.environment()
    return {os.fsencode(name): os.fsencode(value) for name, value in environment.items()}


def run(
    program: Path,
    *arguments: str,
    env: Mapping[bytes, bytes] | None = None,
    before: Callable[[], object] | None = None,
    shell: str = "",
) -> str:
    """Run the program; return what it found, after a look at what it said."""
    result = program.parent / "result"
    command = [sys.executable, *(arguments or [str(program)])]
    if shell:
        command = ["bash", "-c", shell, "bash", *command]
    own = {os.fsencode(name): os.fsencode(value) for name, value in os.environ.items()}
    own.pop(b"XDG_RUNTIME_DIR", None)
    done = subprocess.run(
        command,
        env={**own, **(env or {}), b"RESULT": os.fsencode(result)},
        cwd=program.parent,
        preexec_fn=before,
        capture_output=True,
        timeout=200,
        check=False,
    )
    said = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode == 0, said
    assert "Traceback" not in said
    return result.read_text()


@pytest.mark.parametrize(
    "arguments",
    [["-OO", "program.py"], ["-X", "dev", "program.py"]],
    ids=lambda arguments: arguments[0],
)
def test_flags_of_the_interpreter_that_starts_a_cluster(
    program: Path, arguments: list[str]
) -> None:
    assert run(program, *arguments) in ("True", "False")


@pytest.mark.parametrize(
    "arguments",
    [["-m", "program"], ["-I", "program.py"], ["-c", "import program; program.main()"]],
    ids=lambda arguments: arguments[0],
)
def test_ways_to_name_the_program(
    program: Path, shared: dict[bytes, bytes], arguments: list[str]
) -> None:
    assert run(program, *arguments, env=shared) == "True"


# Each character alone: test_local_files.py.
@pytest.mark.parametrize("name", [b"a b'\"%b%(x)s;c #d\ne", b"\xff\xfe", b"x" * 90])
def test_temporary_directories_of_any_name(program: Path, name: bytes) -> None:
    folder = os.path.join(os.fsencode(program.parent), name)  # noqa: PTH118 - not text
    os.mkdir(folder)  # noqa: PTH102
    assert run(program, env={b"TMPDIR": folder}) == "True"


def test_variables_of_any_value(program: Path) -> None:
    odd = {b"A": b"\xff\xfe", b"NAM\xff": b"x", b"B%C": b"%(x)s %%", b"D": b"a\"b'c\n\\ ; d"}
    assert run(program, env=odd) == "True"


def test_a_directory_that_was_deleted(program: Path) -> None:
    assert run(program, shell='mkdir gone; cd gone; rmdir ../gone; exec "$@"') == "True"


def test_a_cluster_started_with_closed_descriptors(program: Path) -> None:
    assert run(program, shell='exec "$@" <&- >&- 2>&-') == "True"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_closed_descriptors(program: Path, shared: dict[bytes, bytes], closed: str) -> None:
    assert run(program, env=shared, shell=f'exec "$@" {closed}') == "True"


@pytest.mark.parametrize("home", ["unset HOME", "export HOME=/proc", "export HOME={nobody}"])
def test_no_home(program: Path, tmp_path: Path, home: str) -> None:
    nobody = tmp_path / "nobody"
    assert run(program, shell=f'{home.format(nobody=nobody)}; exec "$@"') == "True"
    assert not nobody.exists()


def _few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))


@pytest.mark.parametrize(
    "before",
    [
        lambda: os.umask(0o077),
        lambda: os.umask(0o777),
        _few_files,
        lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
    ],
    ids=["umask 077", "umask 777", "few files", "SIGCHLD ignored"],
)
def test_what_a_shell_sets(program: Path, before: Callable[[], object]) -> None:
    assert run(program, before=before) == "True"


def test_a_program_that_is_nice(program: Path, shared: dict[bytes, bytes]) -> None:
    assert run(program, env=shared, before=lambda: os.nice(5)) == "True"
