"""Each example, alone, as a reader runs it: what it prints, and that it ends by itself."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SECONDS = 240

pytestmark = pytest.mark.timeout(SECONDS + 10)

Run = Callable[[str], list[str]]


@pytest.fixture
def run() -> Iterator[Run]:
    """Runs an example away from the clusters that the user may have begun."""
    runtime = Path(tempfile.mkdtemp(prefix="ca-test-"))

    def example(name: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / name)],
            env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout.splitlines()

    yield example
    left = [path for path in runtime.iterdir() if path.name.startswith("celery-actors-")]
    shutil.rmtree(runtime)
    assert not left, "the example left its session directory"


def needs(*modules: str) -> pytest.MarkDecorator:
    """For an example that needs more than the package itself."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def test_every_example_is_tested() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    for path in EXAMPLES.glob("*.py"):
        assert f'run("{path.name}")' in text
        assert "import celery_actors as ray\n" in path.read_text(encoding="utf-8")


def test_counters(run: Run) -> None:
    assert run("01_counters.py") == ["[1, 1, 1, 1, 1, 1, 1, 1, 1, 1]", "[2, 3, 4, 5, 6]"]


@needs("gymnasium", "ale_py")
def test_gym_environments(run: Run) -> None:
    one, another, parallel, rewards = run("02_gym_environments.py")
    assert "(210, 160, 3)" in one
    # The simulator's state stays in the actor: the second step goes on from the first.
    assert re.search(r"frame 4\.$", one)
    assert re.search(r"frame 8\.$", another)
    assert re.search(r"4 environments in parallel: 800 steps, \d+ steps/s\.", parallel)
    shown = re.fullmatch(r"Rewards: \[(.*)\], in total (.*)\.", rewards)
    assert shown is not None
    assert sum(map(float, shown[1].split(", "))) == float(shown[2])


@needs("tensorflow", "sklearn")
def test_neural_net_on_gpu(run: Run) -> None:
    lines = run("03_neural_net_on_gpu.py")
    assert any(line.startswith("Data: ") for line in lines)
    accuracy = re.fullmatch(r"Accuracy is (0\.\d+)\.", lines[-1])
    assert accuracy is not None
    assert float(accuracy[1]) > 0.85


def test_handles_to_tasks(run: Run) -> None:
    readings = [int(line) for line in run("04_handles_to_tasks.py")]
    assert len(readings) == 10
    assert readings[0] > 0
    assert all(earlier < later for earlier, later in pairwise(readings))


@needs("numpy", "sklearn")
def test_parameter_server(run: Run) -> None:
    lines = run("05_parameter_server.py")
    found = [re.fullmatch(r"After +(\d+) updates: accuracy (\d\.\d+)", line) for line in lines]
    reports = [(int(match[1]), float(match[2])) for match in found if match is not None]
    assert len(reports) == len(lines)
    assert reports[0][0] == 0
    assert reports[-1][0] == 800  # none lost, none counted twice
    assert reports == sorted(reports, key=lambda report: report[0])
    assert reports[-1][1] > max(0.85, reports[0][1])


def test_not_enough_gpus(run: Run) -> None:
    error, gpus = run("06_not_enough_gpus.py")
    assert error.startswith("InsufficientResources: not enough GPUs")
    assert "3 GPUs" in error
    assert "has 2" in error
    assert gpus == "[[0], [1]]"


def test_plain_celery_client(run: Run) -> None:
    mailbox, called, read = run("07_plain_celery_client.py")
    assert re.search(r"queue actor\.[0-9a-f]{32}\.$", mailbox)
    assert called == "Called by plain Celery: 42"
    assert read == "Read by AsyncResult: 1"
