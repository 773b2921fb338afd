"""Metrics of programs, from where they are measured to what Prometheus reads."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from waiting import wait_for_state, wait_until

import celery_actors as ray
from celery_actors.client.current import require_process
from celery_actors.local import PrivateCluster
from celery_actors.session import SessionInfo
from celery_actors.util.metrics import Counter, Gauge, Histogram


@ray.remote
class Till:
    def __init__(self) -> None:
        self.sold = Counter("sold", description="Items sold.", tag_keys=("kind",))
        self.size = Gauge("till_size")
        self.took = Histogram("took", boundaries=[0.1, 1.0])

    def sell(self, kind: str, number: int) -> None:
        self.sold.inc(number, tags={"kind": kind})
        self.size.set(number)
        self.took.observe(0.5)

    def end(self) -> None:
        sys.exit()


@ray.remote
def count() -> None:
    Counter("counted").inc()


@pytest.fixture(scope="module")
def page(brokers: PrivateCluster, cluster: SessionInfo) -> Iterator[str]:
    """The address at which `celery-actors metrics` serves."""
    server = subprocess.Popen(
        [sys.executable, "-c", "from celery_actors.cli import main; main()", "metrics", "--port=0"],
        env={**os.environ, **brokers.address.environment()},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    yield server.stdout.readline().strip()
    server.terminate()
    server.wait(60)
    server.stdout.close()


def samples(page: str, name: str, **labels: str) -> dict[str, float]:
    """The samples of a metric with these labels, by the rest of their name."""
    with urllib.request.urlopen(page, timeout=60) as answer:
        text = answer.read().decode()
    return {
        sample.name.removeprefix(name) + sample.labels.get("le", ""): sample.value
        for family in text_string_to_metric_families(text)
        if family.name == name
        for sample in family.samples
        if labels.items() <= sample.labels.items()
    }


def test_what_actors_measure_is_on_the_page(page: str, cluster: SessionInfo) -> None:
    tills = [Till.remote() for _ in range(2)]
    ray.get([till.sell.remote("book", 3) for till in tills])
    ray.get(tills[0].sell.remote("pen", 1))
    labels = {"JobId": cluster.job_id, "ActorClass": "Till", "NodeName": "one"}

    def sold(kind: str) -> float | None:
        return samples(page, "sold", kind=kind, **labels).get("_total")

    wait_until(lambda: sold("book") == 6 and sold("pen") == 1, "the sums of both tills")
    # Each is written on its own: a process may write while its method has measured half of them.
    wait_until(lambda: samples(page, "took", **labels).get("_count") == 3, "all that was observed")
    took = samples(page, "took", **labels)
    assert (took["_bucket0.1"], took["_bucket1.0"], took["_bucket+Inf"]) == (0, 3, 3)
    assert took["_sum"] == 1.5
    gauges = page_lines(page, "till_size{")
    assert len(gauges) == 2, "each process has its own"
    assert all("WorkerId" in line for line in gauges)


def page_lines(page: str, start: str) -> list[str]:
    with urllib.request.urlopen(page, timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return [line for line in lines if line.startswith(start)]


def test_an_actor_that_ends_leaves_its_sums_but_no_gauge(page: str, cluster: SessionInfo) -> None:
    till = Till.remote()
    ray.get(till.sell.remote("lamp", 7))
    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(till.end.remote())
    wait_for_state(till, "DEAD")
    # Written before the process closed: nobody has to wait.
    assert samples(page, "sold", kind="lamp")["_total"] == 7
    wait_until(
        lambda: not [line for line in page_lines(page, "till_size{") if line.endswith(" 7.0")],
        "the end of the gauge",
    )


def test_drivers_and_tasks_measure_too(page: str, cluster: SessionInfo) -> None:
    Counter("driven").inc(2)
    ray.get([count.remote() for _ in range(3)])
    wait_until(lambda: samples(page, "driven", ActorClass="driver"), "the driver's metric")
    assert samples(page, "driven")["_total"] == 2
    wait_until(
        lambda: samples(page, "counted", ActorClass="tasks").get("_total") == 3, "the tasks'"
    )


def test_the_records_are_on_the_page(page: str, cluster: SessionInfo) -> None:
    till = Till.remote()
    ray.get(till.sell.remote("book", 1))
    assert samples(page, "celery_actors_actors", ActorClass="Till", State="ALIVE")[""] >= 1
    # Of one look: an executor of an earlier test may be returned between two.
    lines = page_lines(page, "celery_actors_resources{")
    cpus = [line for line in lines if 'Name="CPU"' in line and 'NodeName="one"' in line]
    assert len(cpus) == 2, "what is available, and what is used"
    assert sum(float(line.rpartition(" ")[2]) for line in cpus) == 4
    assert samples(page, "celery_actors_waiting_requests")[""] == 0


def test_a_repeated_write_counts_once(cluster: SessionInfo) -> None:
    process = require_process()
    what = '{"describe": {}, "add": {"[\\"twice\\"]": "1.5"}, "set": {}}'

    def sums() -> Any:
        (job,) = [job for job in process.control.metrics() if job.job_id == process.job_id]
        return job.sums

    process.control.add_metrics(process.caller.hex(), 10**6, what)
    process.control.add_metrics(process.caller.hex(), 10**6, what)
    assert sums()['["twice"]'] == "1.5"
    process.control.add_metrics("0" * 16, 1, what)  # of nobody: it is ignored
    assert sums()['["twice"]'] == "1.5"
