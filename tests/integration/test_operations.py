"""The tools that Celery's people run: supervisord, ``celery inspect``, Flower over HTTP."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import celery
import pytest
from waiting import wait_until

import celery_actors as ray
from celery_actors.config import Settings
from celery_actors.handle import actor_id_of
from celery_actors.local import PrivateCluster
from celery_actors.local.ports import free_ports

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(importlib.util.find_spec("flower") is None, reason="not installed: flower"),
]

CONFIG = Path(__file__).parents[2] / "config"
LOGIN = "operator:secret"


@dataclass(frozen=True)
class Operations:
    """A node and Flower under supervisord, by the files in ``config/``."""

    environment: Mapping[str, str]
    flower_port: int
    log: Path

    def ping(self) -> dict[str, Any]:
        """Run ``celery -A celery_actors inspect ping`` and return who answered in time."""
        done = subprocess.run(
            [sys.executable, "-m", "celery", "-A", "celery_actors", "inspect", "ping", "--json"],
            env=dict(self.environment),
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        if done.returncode == os.EX_UNAVAILABLE:
            return {}
        assert done.returncode == 0, done.stdout + done.stderr
        answers: dict[str, Any] = json.loads(done.stdout)
        return answers

    def flower(self, path: str) -> Any:
        """Return what Flower's HTTP API answers; nothing while it isn't up."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.flower_port}{path}")
        request.add_header("Authorization", "Basic " + base64.b64encode(LOGIN.encode()).decode())
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except URLError as error:
            if isinstance(error.reason, ConnectionRefusedError):
                return None
            raise


@pytest.fixture(scope="module")
def operations(brokers: PrivateCluster, nothing_left: None) -> Iterator[Operations]:
    # A copy, since supervisord's socket and log lie beside the folder of its configuration.
    folder = Path(tempfile.mkdtemp(prefix="ca-test-"))
    shutil.copytree(CONFIG, folder / "config")
    (port,) = free_ports(1)
    environment = {
        **os.environ,
        **brokers.address.environment(),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "CELERY_ACTORS_NODE_OPTIONS": "--node-name one --num-cpus 4 --resources '{\"disk\": 4}'",
        "FLOWER_PORT": str(port),
        "FLOWER_BASIC_AUTH": LOGIN,
    }
    log = folder / "log"
    with log.open("wb") as output:
        supervisord = subprocess.Popen(
            [sys.executable, "-m", "supervisor.supervisord", "-c", "config/supervisord.conf"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    yield Operations(environment, port, log)
    supervisord.terminate()
    assert supervisord.wait(60) == 0
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def driver(operations: Operations, brokers: PrivateCluster) -> Iterator[None]:
    """This process, initialised by the environment alone, as any program on a real cluster."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in brokers.address.environment().items():
            patch.setenv(name, value)
        patch.setenv("CELERY_ACTORS_SESSION_DIR", "")  # the session is not this driver's
        ray.init()
        wait_until(ray.nodes, "the node")
        wait_until(lambda: operations.flower("/api/workers?refresh=1"), "Flower with a worker")
        yield
        ray.shutdown()


@ray.remote
class Till:
    def __init__(self) -> None:
        self.sum = 0

    def add(self, amount: int) -> int:
        self.sum += amount
        return self.sum

    def refuse(self) -> None:
        raise ValueError("no money")


@ray.remote
def double(number: int) -> int:
    return 2 * number


def worker_of(till: Any) -> str:
    return f"Till.{actor_id_of(till).hex()[:8]}@"


def test_node_options_come_from_the_environment(driver: None) -> None:
    (node,) = ray.nodes()
    assert node["NodeName"] == "one"
    assert node["Resources"]["CPU"] == 4
    assert node["Resources"]["disk"] == 4


def test_inspect_lists_the_node_and_its_actors(driver: None, operations: Operations) -> None:
    tills = [Till.remote() for _ in range(3)]
    ray.get([till.add.remote(1) for till in tills])
    wanted = {"celery@", *map(worker_of, tills)}

    def answers() -> dict[str, Any] | None:
        found = operations.ping()
        return found if all(any(n.startswith(w) for n in found) for w in wanted) else None

    found = wait_until(answers, "an answer of the node and of each actor")
    for till in tills:
        (name,) = [name for name in found if name.startswith(worker_of(till))]
        assert found[name] == {"ok": "pong"}


def test_flower_lists_actors_as_workers(driver: None, operations: Operations) -> None:
    till = Till.remote()
    ray.get(till.add.remote(1))

    def listed() -> Any:
        workers = operations.flower("/api/workers?refresh=1")
        found = [w for name, w in workers.items() if name.startswith(worker_of(till))]
        # Flower asks for each part on its own, and gives each a second to come.
        return found[0].get("active_queues") if found else None

    (queue,) = wait_until(listed, "the actor and its queue among Flower's workers")
    assert queue["name"] == f"actor.{actor_id_of(till).hex()}"


def test_flower_lists_calls_as_tasks(driver: None, operations: Operations) -> None:
    till = Till.remote()
    added = till.add.remote(5)
    refused = till.refuse.remote()
    doubled = double.remote(21)
    assert ray.get([added, doubled]) == [5, 42]
    with pytest.raises(ValueError, match="no money"):
        ray.get(refused)

    def finished(ref: ray.ObjectRef[Any]) -> Any:
        task = operations.flower("/api/tasks").get(ref.task_id(), {})
        return task if task.get("state") in ("SUCCESS", "FAILURE") else None

    task = wait_until(lambda: finished(added), "the call among Flower's tasks")
    assert task["name"] == "Till.add"
    assert task["state"] == "SUCCESS"
    assert 0 < task["runtime"] < 60
    assert task["worker"].startswith(worker_of(till))

    task = wait_until(lambda: finished(refused), "the failed call among Flower's tasks")
    assert (task["name"], task["state"]) == ("Till.refuse", "FAILURE")
    assert "no money" in task["exception"]
    assert "ValueError" in task["traceback"]

    task = wait_until(lambda: finished(doubled), "the function's call among Flower's tasks")
    assert (task["name"], task["state"]) == ("double", "SUCCESS")


def test_an_actor_that_ended_answers_no_more(driver: None, operations: Operations) -> None:
    till = Till.remote()
    ray.get(till.add.remote(1))
    name = worker_of(till)
    ray.kill(till)

    def only_others() -> bool:
        found = operations.ping()
        return any(n.startswith("celery@") for n in found) and not any(
            n.startswith(name) for n in found
        )

    wait_until(only_others, "an answer of the node, and none of the actor")


def test_the_example_settings_make_a_node_of_a_users_own_app(
    brokers: PrivateCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in brokers.address.environment().items():
        monkeypatch.setenv(name, value)
    app = celery.Celery("shop")
    app.config_from_object(_module(CONFIG / "celeryconfig.py"))
    ray.install(app)
    assert app.conf.broker_url == brokers.address.broker_url
    settings = Settings.from_app(app)
    assert settings.result_backend == brokers.address.result_backend
    assert (settings.lease, settings.window_calls) == (10.0, 1000)
    assert settings.key == brokers.address.key_file.read_bytes().strip()


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
