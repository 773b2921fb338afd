"""What idle actors cost: memory, connections and CPU of 200 actors that wait for calls.

    python benchmarks/idle_actors.py [--actors 200]

The status is 1 where an actor's private memory isn't below 15 MB or a call isn't answered.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any
from urllib.parse import urlsplit

import psutil
from cluster_processes import (
    ClusterProcess,
    cluster_processes,
    leftovers,
    log_problems,
    memory_rollup,
    tree_of,
)
from peers import RESULTS
from rich.console import Console
from rich.table import Table

import celery_actors as ray
from celery_actors.client.current import require_process

MOST_PRIVATE = 15e6
SETTLE_SECONDS = 5.0
CPU_SECONDS = 10.0
WAIT_SECONDS = 120.0
MB = 1e6


@ray.remote
class Idle:
    def __init__(self, number):
        self.number = number

    def answer(self):
        return self.number


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--actors", type=int, default=200)
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 130)

    session = ray.init("local")
    assert session.session_dir is not None
    begun = time.monotonic()
    actors = [Idle.remote(number) for number in range(options.actors)]
    submitted = time.monotonic() - begun
    expected = list(range(options.actors))
    answers = ray.get([actor.answer.remote() for actor in actors], timeout=WAIT_SECONDS)
    ready = time.monotonic() - begun
    time.sleep(SETTLE_SECONDS)  # what is done after a start is no part of idling

    processes = tree_of(cluster_processes(session.session_dir))
    cpu = cpu_shares(processes)
    own = processes.get("actor Idle", [])
    memory = memory_of(own)
    connections = connections_of(processes)
    begun = time.monotonic()
    again = ray.get([actor.answer.remote() for actor in actors], timeout=WAIT_SECONDS)
    answered = time.monotonic() - begun
    problems = log_problems(session.session_dir)
    begun = time.monotonic()
    ray.shutdown()
    stopped = time.monotonic() - begun
    left = leftovers(session.session_dir)

    summary: dict[str, Any] = {
        "actors": len(own),
        "submitted_seconds": submitted,
        "ready_seconds": ready,
        "all_answered": answers == expected and again == expected,
        "answered_again_seconds": answered,
        "memory_of_an_actor": memory,
        "connections": connections,
        "cpu_percent_of_a_core": cpu,
        "stop_seconds": stopped,
        "left": left,
        "log": problems,
    }
    show(console, summary)
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"idle-actors-{stamp}.json"
    path.write_text(json.dumps({"when": stamp, **summary}, indent=2) + "\n")
    small = memory["private"]["highest"] < MOST_PRIVATE
    complete = len(own) == options.actors
    return 0 if small and complete and summary["all_answered"] and not left else 1


def cpu_shares(processes: dict[str, list[ClusterProcess]]) -> dict[str, float]:
    """Return what each kind of process uses while nothing is asked of it."""
    before = {kind: cpu_seconds(group) for kind, group in processes.items()}
    begun = time.monotonic()
    time.sleep(CPU_SECONDS)
    elapsed = time.monotonic() - begun
    return {
        kind: 100 * (cpu_seconds(group) - before[kind]) / elapsed
        for kind, group in processes.items()
    }


def cpu_seconds(group: Sequence[ClusterProcess]) -> float:
    total = 0.0
    for process in group:
        try:
            times = process.process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def memory_of(actors: Sequence[ClusterProcess]) -> dict[str, dict[str, float]]:
    """Return bytes an actor: private (what one more costs), PSS and RSS."""
    samples: dict[str, list[int]] = {"private": [], "pss": [], "rss": []}
    for actor in actors:
        amounts = memory_rollup(actor.pid)
        samples["private"].append(amounts["Private_Clean"] + amounts["Private_Dirty"])
        samples["pss"].append(amounts["Pss"])
        samples["rss"].append(amounts["Rss"])
    return {
        name: {
            "median": statistics.median(values),
            "lowest": min(values),
            "highest": max(values),
            "together": sum(values),
        }
        for name, values in samples.items()
    }


def connections_of(processes: dict[str, list[ClusterProcess]]) -> dict[str, dict[str, float]]:
    """Return established connections of each kind of process to the two servers."""
    settings = require_process().settings
    servers = {
        urlsplit(settings.broker_url).port: "RabbitMQ",
        urlsplit(settings.result_backend).port: "Redis",
    }
    kinds = {process.pid: kind for kind, group in processes.items() for process in group}
    counts: dict[str, dict[str, int]] = {}
    for connection in psutil.net_connections(kind="tcp"):
        server = servers.get(connection.raddr.port) if connection.raddr else None
        kind = kinds.get(connection.pid or 0)
        if server and kind and connection.status == psutil.CONN_ESTABLISHED:
            row = counts.setdefault(kind, dict.fromkeys(servers.values(), 0))
            row[server] += 1
    return {
        kind: {server: number / len(processes[kind]) for server, number in row.items()}
        for kind, row in counts.items()
    }


def show(console: Console, summary: dict[str, Any]) -> None:
    number = summary["actors"]
    console.print(
        f"{number} actors: submitted in {summary['submitted_seconds']:.2f} s, all answered after "
        f"{summary['ready_seconds']:.2f} s ({number / summary['ready_seconds']:.1f} a second), "
        f"again in {summary['answered_again_seconds']:.3f} s; answers right: "
        f"{'yes' if summary['all_answered'] else 'NO'}"
    )
    memory = Table(title="an actor's memory, MB")
    for header in ("", "median", "lowest", "highest", "together"):
        memory.add_column(header, justify="right" if header else "left")
    for name, figures in summary["memory_of_an_actor"].items():
        keys = ("median", "lowest", "highest", "together")
        memory.add_row(name, *[f"{figures[key] / MB:,.1f}" for key in keys])
    console.print(memory)
    costs = Table(title="a process's connections, and CPU of all of a kind while idle")
    for header in ("", "to RabbitMQ", "to Redis", "% of a core"):
        costs.add_column(header, justify="right" if header else "left")
    for kind, cpu in summary["cpu_percent_of_a_core"].items():
        row = summary["connections"].get(kind, {})
        counts = [f"{row.get(server, 0):g}" for server in ("RabbitMQ", "Redis")]
        costs.add_row(kind, *counts, f"{cpu:.2f}")
    total = sum(summary["cpu_percent_of_a_core"].values())
    costs.add_row("all", "", "", f"{total:.2f}")
    console.print(costs)
    small = summary["memory_of_an_actor"]["private"]["highest"] < MOST_PRIVATE
    console.print(
        f"private memory below {MOST_PRIVATE / MB:g} MB an actor: {'yes' if small else 'NO'}"
    )
    console.print(
        f"shutdown() took {summary['stop_seconds']:.2f} s, left {summary['left'] or 'nothing'}"
    )
    for problem in summary["log"]:
        console.print(f"log: {problem}", highlight=False, markup=False)


if __name__ == "__main__":
    sys.exit(main())
