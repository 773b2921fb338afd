"""Real brokers for the tests, further nodes, and the check that nothing is left."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from fixture_types import RunScript, StartNode
from leftovers import forget_expiring, own_faults, shared_memory_files, wait_for_none
from waiting import wait_until

import celery_actors
from celery_actors.local import NodeOptions, PrivateCluster
from celery_actors.session import SessionInfo

LEFT_SECONDS = 30.0
_STOP_SECONDS = 60.0
_SCRIPT_SECONDS = 200.0


@pytest.fixture(scope="session")
def brokers() -> Iterator[PrivateCluster]:
    """A private RabbitMQ and Redis, the same for all tests, without a node worker."""
    with PrivateCluster.start(with_node=False) as cluster:
        yield cluster


@pytest.fixture(scope="module", autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After the module nothing of it is left around the brokers; fails with the names."""
    module = request.node
    uses_brokers = any(
        "brokers" in getattr(item, "fixturenames", ())
        for item in request.session.items
        if item.getparent(pytest.Module) is module
    )
    if not uses_brokers:
        yield
        return
    cluster: PrivateCluster = request.getfixturevalue("brokers")
    before = shared_memory_files(cluster)
    yield
    left = wait_for_none(cluster, before, LEFT_SECONDS)
    forget_expiring(cluster)
    if left:
        names = "\n  ".join(left)
        pytest.fail(f"{LEFT_SECONDS:.0f} s after {module.name} there is left:\n  {names}")


@pytest.fixture(scope="module")
def start_node(
    brokers: PrivateCluster, nothing_left: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartNode]:
    """Starts node workers that join `brokers`; they are stopped at the end of the module.

    Each logs to a file of its own, `node.log_path` in the process object's attribute of that name.
    """
    started: list[subprocess.Popen[bytes]] = []
    logs = tmp_path_factory.mktemp("nodes")

    def start(
        name: str | None = None,
        num_cpus: float | None = None,
        num_gpus: float | None = None,
        resources: Mapping[str, float] | None = None,
        env: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        options = NodeOptions(name, num_cpus, num_gpus, resources or {}, labels=labels or {})
        log = logs / f"{name or 'node'}-{len(started)}.log"
        command = [sys.executable, "-m", "celery", "-A", "celery_actors", "worker"]
        with log.open("wb") as output:
            node = subprocess.Popen(
                [*command, *options.worker_argv(), "--loglevel", "INFO"],
                env={**os.environ, **brokers.address.environment(), **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        node.log_path = log  # type: ignore[attr-defined]
        started.append(node)
        return node

    yield start
    for node in started:
        if node.poll() is None:
            node.terminate()
    for node in started:
        try:
            node.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            node.kill()
            node.wait()
    faults = own_faults(logs.glob("*.log"))
    if faults:
        pytest.fail("an error of this package was logged:\n" + "\n".join(faults))


@pytest.fixture(scope="module")
def driver(brokers: PrivateCluster, start_node: StartNode) -> Iterator[SessionInfo]:
    """This process, initialised against `brokers`; its nodes are the module's to start."""
    session = celery_actors.init(brokers.address, log_to_driver=False)
    yield session
    celery_actors.shutdown()


@pytest.fixture(scope="module")
def cluster(driver: SessionInfo, start_node: StartNode) -> SessionInfo:
    """`driver` with one node of four CPUs."""
    start_node("one", num_cpus=4)
    wait_until(celery_actors.nodes, "the node")
    return driver


@pytest.fixture(scope="module")
def run_script(brokers: PrivateCluster, tmp_path_factory: pytest.TempPathFactory) -> RunScript:
    """Runs a program of its own against `brokers`, as its user would, and returns its output."""
    folder = tmp_path_factory.mktemp("scripts")
    count = itertools.count()

    def run(
        text: str, *arguments: str, env: Mapping[str, str] | None = None, status: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        script = folder / f"script_{next(count)}.py"
        script.write_text(text)
        done = subprocess.run(
            [sys.executable, str(script), *arguments],
            env={**os.environ, **brokers.address.environment(), **(env or {})},
            capture_output=True,
            text=True,
            timeout=_SCRIPT_SECONDS,
            check=False,
        )
        if status is not None:
            assert done.returncode == status, done.stdout + done.stderr
        return done

    return run


def log_of(node: subprocess.Popen[bytes]) -> str:
    """What a node started by `start_node` has logged."""
    path: Path = node.log_path  # type: ignore[attr-defined]
    return path.read_text(errors="replace")
