"""The commands `list`, `get` and `summary` of `celery-actors`, as their user runs them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from typing import Any

import pytest
import yaml
from waiting import record_of, wait_until_alive

import celery_actors as ray
from celery_actors.client.current import require_process
from celery_actors.handle import actor_id_of
from celery_actors.local import PrivateCluster
from celery_actors.session import SessionInfo

COMMAND = (sys.executable, "-c", "from celery_actors.cli import main; main()")


@ray.remote
class Till:
    def __init__(self) -> None:
        self.sum = 0

    def add(self, amount: int) -> int:
        self.sum += amount
        return self.sum

    def refuse(self) -> None:
        raise ValueError("no money")


@pytest.fixture(scope="module")
def till(cluster: SessionInfo) -> Any:
    till = Till.options(num_cpus=1).remote()
    with pytest.raises(ValueError, match="no money"):
        ray.get([till.add.remote(1), till.add.remote(2), till.refuse.remote()])
    return till


@pytest.fixture
def run(brokers: PrivateCluster) -> Any:
    def celery_actors(*words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*COMMAND, *words],
            env={**os.environ, **brokers.address.environment()},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done

    return celery_actors


def test_list_actors_as_a_table(till: Any, run: Any) -> None:
    lines = run("list", "actors", "--filter", "state=ALIVE").stdout.splitlines()
    assert lines[0].split()[:3] == ["actor_id", "class_name", "state"]
    (line,) = [line for line in lines if line.startswith(actor_id_of(till).hex())]
    assert line.split()[1:3] == ["Till", "ALIVE"]
    assert run("list", "actors", "--filter", "state=RESTARTING").stdout == "No actors.\n"


def test_list_as_json_and_yaml(till: Any, run: Any) -> None:
    words = ("list", "tasks", "--filter", "name=Till.add", "--detail", "--format")
    found = json.loads(run(*words, "json").stdout)
    assert [task["state"] for task in found] == ["FINISHED", "FINISHED"]
    assert found[0]["start_time_ms"] > 10**12
    assert yaml.safe_load(run(*words, "yaml").stdout) == found
    assert json.loads(run("list", "tasks", "--limit", "1", "--format", "json").stdout)
    (node,) = json.loads(run("list", "nodes", "--format", "json").stdout)
    assert node["resources_total"]["CPU"] == 4
    kinds = {w["worker_type"] for w in json.loads(run("list", "workers", "--format=json").stdout)}
    assert kinds == {"DRIVER", "WORKER"}


def test_get_shows_all_there_is(till: Any, run: Any, cluster: SessionInfo) -> None:
    actor_id = actor_id_of(till).hex()
    actor = yaml.safe_load(run("get", "actors", actor_id, "--format", "yaml").stdout)
    assert actor["pid"] == record_of(till).pid
    assert actor["required_resources"] == {"CPU": 1.0}
    shown = run("get", "actors", actor_id).stdout
    assert "CPU: 1\n" in shown
    assert json.loads(run("get", "jobs", cluster.job_id, "--format", "json").stdout)
    assert "there is no actor abc" in run("get", "actors", "abc", status=1).stderr


def test_summaries(till: Any, run: Any) -> None:
    actors = run("summary", "actors").stdout
    assert "Till" in actors
    assert "total actors: 1" in actors
    tasks = json.loads(run("summary", "tasks", "--format", "json").stdout)
    assert tasks["summary"]["Till.add"]["state_counts"] == {"FINISHED": 2}
    assert tasks["summary"]["Till.refuse"]["state_counts"] == {"FAILED": 1}


def test_mistakes_are_named(till: Any, run: Any) -> None:
    wrong = run("list", "actors", "--filter", "colour=red", status=2).stderr
    assert "no field 'colour'" in wrong
    assert "is no filter" in run("list", "actors", "--filter", "red", status=2).stderr
    assert "actors" in run("list", "cars", status=2).stderr


def test_looking_registers_no_job(till: Any, run: Any, cluster: SessionInfo) -> None:
    wait_until_alive(till)
    run("list", "tasks")
    assert [job.job_id for job in require_process().control.jobs()] == [cluster.job_id]


def test_without_a_cluster_it_says_so() -> None:
    runtime = tempfile.mkdtemp(prefix="ca-test-")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("CELERY_")
    }
    done = subprocess.run(
        [*COMMAND, "list", "actors"],
        env={**environment, "XDG_RUNTIME_DIR": runtime},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 1
    assert "found no cluster" in done.stderr
    shutil.rmtree(runtime)
