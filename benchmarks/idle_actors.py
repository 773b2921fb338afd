"""What idle actors cost: memory, connections and CPU of actors that wait for calls.

    python benchmarks/idle_actors.py [--actors 200]

With the first 20 of them, an idle cluster must take less than 2 % of a core, servers and this
program with it.  The status is 1 where it takes more, where an actor's private memory isn't below
12 MB or a call isn't answered.
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

MOST_PRIVATE = 12e6
FEW_ACTORS = 20
MOST_CPU = 2.0  # per cent of a core, of the whole cluster with the few actors
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
    few = min(FEW_ACTORS, options.actors)
    actors = [Idle.remote(number) for number in range(few)]
    ray.get([actor.answer.remote() for actor in actors], timeout=WAIT_SECONDS)
    time.sleep(SETTLE_SECONDS)  # what is done after a start is no part of idling
    cpu_of_few = cpu_shares(tree_of(cluster_processes(session.session_dir)))
    begun = time.monotonic()
    actors += [Idle.remote(number) for number in range(few, options.actors)]
    submitted = time.monotonic() - begun
    expected = list(range(options.actors))
    answers = ray.get([actor.answer.remote() for actor in actors], timeout=WAIT_SECONDS)
    ready = time.monotonic() - begun
    time.sleep(SETTLE_SECONDS)

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
        "created_together": options.actors - few,
        "few_actors": few,
        "cpu_percent_with_few": cpu_of_few,
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
    complete = len(own) == options.actors
    good = all(verdict for _, verdict in verdicts(summary))
    return 0 if good and complete and summary["all_answered"] and not left else 1


def verdicts(summary: dict[str, Any]) -> list[tuple[str, bool]]:
    """What is required, with its figure, and whether it holds."""
    private = summary["memory_of_an_actor"]["private"]["highest"]
    cpu = sum(summary["cpu_percent_with_few"].values())
    return [
        (
            f"private memory of every actor below {MOST_PRIVATE / MB:g} MB: "
            f"the highest is {private / MB:.1f} MB",
            private < MOST_PRIVATE,
        ),
        (
            f"an idle cluster with {summary['few_actors']} actors takes less than {MOST_CPU:g} % "
            f"of a core: {cpu:.2f} %",
            cpu < MOST_CPU,
        ),
    ]


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
    number, together = summary["actors"], summary["created_together"]
    console.print(
        f"{number} actors; {together} created together: submitted in "
        f"{summary['submitted_seconds']:.2f} s, all answered after "
        f"{summary['ready_seconds']:.2f} s ({together / summary['ready_seconds']:.1f} a second), "
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
    few = f"% of a core ({summary['few_actors']} actors)"
    for header in ("", "to RabbitMQ", "to Redis", few, "% of a core"):
        costs.add_column(header, justify="right" if header else "left")
    for kind, cpu in summary["cpu_percent_of_a_core"].items():
        row = summary["connections"].get(kind, {})
        counts = [f"{row.get(server, 0):g}" for server in ("RabbitMQ", "Redis")]
        costs.add_row(
            kind, *counts, f"{summary['cpu_percent_with_few'].get(kind, 0):.2f}", f"{cpu:.2f}"
        )
    totals = [
        f"{sum(summary[key].values()):.2f}"
        for key in ("cpu_percent_with_few", "cpu_percent_of_a_core")
    ]
    costs.add_row("all", "", "", *totals)
    console.print(costs)
    for words, holds in verdicts(summary):
        console.print(f"{words}: {'[green]pass[/green]' if holds else '[red]FAIL[/red]'}")
    console.print(
        f"shutdown() took {summary['stop_seconds']:.2f} s, left {summary['left'] or 'nothing'}"
    )
    for problem in summary["log"]:
        console.print(f"log: {problem}", highlight=False, markup=False)


if __name__ == "__main__":
    sys.exit(main())
