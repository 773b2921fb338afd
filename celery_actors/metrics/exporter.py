"""The metrics of a cluster for Prometheus: read from Redis at each scrape."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any, NamedTuple

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector, CollectorRegistry

from celery_actors.control import Control, JobMetrics
from celery_actors.control.records import WHOLE

__all__ = ["ClusterCollector", "families", "serve"]

logger = logging.getLogger(__name__)


class ClusterCollector(Collector):
    """What programs measured themselves, and what the records say of actors and nodes."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def collect(self) -> Iterator[Metric]:
        """Read all that there is."""
        nodes = self._control.nodes()
        yield from families(self._control.metrics(), {node.node_id: node.name for node in nodes})
        resources = GaugeMetricFamily(
            "celery_actors_resources",
            "Resources of each node, by name and state.",
            labels=("NodeName", "Name", "State"),
        )
        for node in nodes:
            for name, total in node.resources.items():
                free = max(0, node.available.get(name, 0))
                for state, amount in (("AVAILABLE", free), ("USED", total - free)):
                    resources.add_metric((node.name, name, state), amount / WHOLE)
        yield resources
        actors = GaugeMetricFamily(
            "celery_actors_actors",
            "Actors by class and state; the dead ones of the last ten minutes.",
            labels=("ActorClass", "State"),
        )
        records = self._control.actors()
        counts = Counter((r.class_name, r.ray_state) for r in records if r.kind == "actor")
        for labels, count in sorted(counts.items()):
            actors.add_metric(labels, count)
        yield actors
        yield GaugeMetricFamily(
            "celery_actors_waiting_requests",
            "Actors and executors that wait for resources.",
            value=self._control.waiting(),
        )

    def describe(self) -> Iterable[Metric]:
        """Nothing: what there is shows with each scrape."""
        return ()


class _Series(NamedTuple):
    """One series of a metric: its part, its labels, its value."""

    part: str
    labels: tuple[tuple[str, str], ...]
    value: float


def families(jobs: Iterable[JobMetrics], node_names: Mapping[str, str]) -> list[Metric]:
    """Return what programs measured, one family for each metric.

    Of jobs that use one name for different kinds of metrics, the first one's are shown.

    :param node_names: of nodes, by id.
    """
    kinds: dict[str, dict[str, Any]] = {}
    found: dict[str, list[_Series]] = {}
    for job in jobs:
        fields = job.sums.items()
        sums = {name: value for name, value in fields if name.startswith("[")}
        described = {name: json.loads(text) for name, text in fields if name not in sums}
        tables = [("", sums), *job.gauges.items()]
        for worker, table in tables:
            for field, value in table.items():
                name, part, tags, node, actor_class = json.loads(field)
                fact = described.get(name)
                if fact is None or not _fits(kinds.setdefault(name, fact), fact, part):
                    continue
                labels = {
                    **dict(tags),
                    "JobId": job.job_id,
                    "NodeName": node_names.get(node, node),
                    "ActorClass": actor_class,
                }
                if worker:
                    labels["WorkerId"] = worker
                series = _Series(part, tuple(sorted(labels.items())), float(value))
                found.setdefault(name, []).append(series)
    return [_family(name, kinds[name], series) for name, series in sorted(found.items())]


def _fits(known: Mapping[str, Any], fact: Mapping[str, Any], part: str) -> bool:
    if known["kind"] != fact["kind"] or known.get("boundaries") != fact.get("boundaries"):
        return False
    # A process may have been begun with another version of the program.
    return (
        known["kind"] != "histogram"
        or part == "sum"
        or (part.isdigit() and int(part) <= len(known["boundaries"]))
    )


def _family(name: str, fact: Mapping[str, Any], series: list[_Series]) -> Metric:
    keys = sorted({key for each in series for key, _ in each.labels})
    text = fact["description"] or name

    def values(labels: tuple[tuple[str, str], ...]) -> list[str]:
        given = dict(labels)
        return [given.get(key, "") for key in keys]

    if fact["kind"] == "histogram":
        histogram = HistogramMetricFamily(name, text, labels=keys)
        bounds = [*map(str, map(float, fact["boundaries"])), "+Inf"]
        parts: dict[tuple[tuple[str, str], ...], dict[str, float]] = {}
        for each in series:
            parts.setdefault(each.labels, {})[each.part] = each.value
        for labels, by_part in parts.items():
            counts = accumulate(by_part.get(str(index), 0) for index in range(len(bounds)))
            buckets = list(zip(bounds, counts, strict=True))
            histogram.add_metric(values(labels), buckets, by_part.get("sum", 0.0))
        return histogram
    kind = CounterMetricFamily if fact["kind"] == "counter" else GaugeMetricFamily
    family = kind(name, text, labels=keys)
    for each in series:
        family.add_metric(values(each.labels), each.value)
    return family


def serve(control: Control, port: int, host: str) -> tuple[Any, Any]:
    """Serve ``/metrics`` from a thread of its own.

    :returns: the HTTP server and its thread (as ``prometheus_client.start_http_server``).
    :raises OSError: the port is taken.
    """
    from prometheus_client import start_http_server

    registry = CollectorRegistry()
    registry.register(ClusterCollector(control))
    return start_http_server(port, host, registry)
