"""Metrics are checked where they are made, gathered, and shown in Prometheus's form."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from celery_actors.control import JobMetrics
from celery_actors.metrics.exporter import families
from celery_actors.metrics.recording import Recorder, series
from celery_actors.util import metrics as util_metrics
from celery_actors.util.metrics import Counter, Gauge, Histogram, Metric


@pytest.fixture(autouse=True)
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """A recorder without a thread: what it gathered is asked for."""
    made = Recorder()
    monkeypatch.setattr(made, "_wake", made._changed.set)
    monkeypatch.setattr(util_metrics, "recorder", made)
    return made


class _Process:
    job_id, node_id, actor_hex = "job", "node-1", ""


def gathered(recorder: Recorder) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(recorder._gathered(_Process()))  # type: ignore[arg-type]
    return found


def shown(jobs: list[JobMetrics], nodes: dict[str, str] | None = None) -> list[str]:
    class Fixed(Collector):
        def collect(self) -> Any:
            return families(jobs, nodes or {})

    registry = CollectorRegistry()
    registry.register(Fixed())
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if not line.startswith("#")]


def job_metrics(what: dict[str, Any], job: str = "job", worker: str = "w") -> JobMetrics:
    return JobMetrics(job, {**what["describe"], **what["add"]}, {worker: what["set"]})


def test_what_a_metric_says_of_itself() -> None:
    counter = Counter("sold", description="Items sold.", tag_keys=("kind",))
    assert counter.set_default_tags({"kind": "book"}) is counter
    assert counter.info == {
        "name": "sold",
        "description": "Items sold.",
        "tag_keys": ("kind",),
        "default_tags": {"kind": "book"},
    }
    assert Histogram("h", boundaries=[1, 2]).info["boundaries"] == [1, 2]


@pytest.mark.parametrize("kind", [Counter, Gauge])
def test_names_and_tag_keys_are_checked(kind: type[Metric]) -> None:
    with pytest.raises(ValueError, match="needs a name"):
        kind("")
    with pytest.raises(TypeError, match="must be a tuple"):
        kind("m", tag_keys=["a"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be a string"):
        kind("m", tag_keys=(1,))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no tag 'b': it has a"):
        kind("m", tag_keys=("a",)).set_default_tags({"b": "1"})
    with pytest.raises(TypeError, match="must be a string"):
        kind("m", tag_keys=("a",)).set_default_tags({"a": 1})  # type: ignore[dict-item]


def test_records_are_checked(recorder: Recorder) -> None:
    counter = Counter("c", tag_keys=("a", "b"))
    with pytest.raises(ValueError, match=r"no value for the tag\(s\) a, b"):
        counter.inc()
    with pytest.raises(TypeError, match="must be a string"):
        counter.inc(tags={"a": 1, "b": "2"})  # type: ignore[dict-item]
    tags = {"a": "1", "b": "2"}
    for wrong in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="must be"):
            counter.inc(wrong, tags)
    for text in ("1", None):
        with pytest.raises(TypeError, match="must be a number"):
            counter.inc(text, tags)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="boundaries"):
        Histogram("h")
    with pytest.raises(ValueError, match="above 0"):
        Histogram("h", boundaries=[0, 1])
    with pytest.raises(TypeError, match="must be a number"):
        Gauge("g").set("1")  # type: ignore[arg-type]
    assert not gathered(recorder)["add"]


def test_a_name_that_prometheus_refuses_is_not_measured(recorder: Recorder) -> None:
    with pytest.warns(UserWarning, match="'a-b' is not measured"):
        counter = Counter("a-b")
    counter.inc()
    assert not gathered(recorder)["add"]


def test_sums_add_up_and_gauges_keep_the_last(recorder: Recorder) -> None:
    counter = Counter("c", tag_keys=("a",)).set_default_tags({"a": "x"})
    counter.inc()
    counter.inc(2.5)
    counter.inc(tags={"a": "y", "more": "z"})
    gauge = Gauge("g")
    gauge.set(3)
    gauge.set(None)
    gauge.set(-1)
    what = gathered(recorder)
    assert what["add"] == {
        series("c", "", (("a", "x"),), "node-1", "driver"): "3.5",
        series("c", "", (("a", "y"), ("more", "z")), "node-1", "driver"): "1.0",
    }
    assert what["set"] == {series("g", "", (), "node-1", "driver"): "-1"}
    assert set(what["describe"]) == {"c", "g"}
    counter.inc()
    again = gathered(recorder)
    assert list(again["add"].values()) == ["1.0"], "only what is new"
    assert not again["describe"]
    assert not again["set"]


def test_metrics_travel() -> None:
    for metric in (
        Counter("c", "text", ("a",)).set_default_tags({"a": "x"}),
        Gauge("g", tag_keys=("a",)),
        Histogram("h", "text", [1.0, 5.0], ("a",)),
    ):
        assert pickle.loads(pickle.dumps(metric)).info == metric.info


def test_counters_and_gauges_in_prometheus_form(recorder: Recorder) -> None:
    Counter("sold", tag_keys=("kind",)).inc(2, {"kind": 'a "book"'})
    Gauge("size").set(7)
    lines = shown([job_metrics(gathered(recorder))], {"node-1": "one"})
    assert (
        r'sold_total{ActorClass="driver",JobId="job",NodeName="one",kind="a \"book\""} 2.0' in lines
    )
    assert 'size{ActorClass="driver",JobId="job",NodeName="one",WorkerId="w"} 7.0' in lines


def test_a_histogram_counts_up_to_each_boundary(recorder: Recorder) -> None:
    histogram = Histogram("took", boundaries=[10, 1, 5])
    for value in (0.5, 1, 3, 100):
        histogram.observe(value)
    lines = shown([job_metrics(gathered(recorder))])
    found = {line.split("{")[0] + line.split("le=")[-1]: line.split()[-1] for line in lines}
    counts = [line.split()[-1] for line in lines if line.startswith("took_bucket")]
    assert counts == ["2.0", "3.0", "3.0", "4.0"]
    assert any(line.startswith("took_sum") and line.endswith(" 104.5") for line in lines), found
    assert any(line.startswith("took_count") and line.endswith(" 4.0") for line in lines), found


def test_jobs_that_disagree_on_a_metric_do_not_break_the_page(recorder: Recorder) -> None:
    Counter("m").inc()
    first = job_metrics(gathered(recorder), "first")
    second = Recorder()
    second.describe("m", {"kind": "gauge", "description": ""})
    second._values["m", "", ()] = 5.0
    other = job_metrics(gathered(second), "second")
    lines = shown([first, other])
    assert len(lines) == 1
    assert 'JobId="first"' in lines[0]


def test_importing_the_package_loads_no_metrics() -> None:
    program = (
        "import sys, celery_actors\n"
        "unwanted = ('celery_actors.metrics', 'prometheus_client')\n"
        "loaded = [name for name in sys.modules if name.startswith(unwanted)]\n"
        "assert not loaded, loaded\n"
        "import celery_actors.util.metrics\n"
        "assert 'prometheus_client' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
