"""``make bench``: this package against Ray and stock Celery, in one run.

    python benchmarks/run.py [--rounds 3] [--quick] [--only sync,pipelined]

Each round runs every peer once, one after another, each in processes of its own; stock Celery
runs on the brokers of this package's private cluster.  What is compared are the medians over
the rounds, in ratios: those of one run on one machine can be compared, absolute figures of
different machines can't.  The status is 1 where a required ratio is not reached.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cluster_processes import leftovers, log_problems
from environments import EnvironmentFailed
from peers import CELERY, OURS, RAY, RESULTS, PeerError, PeerSpec, Round, round_of
from rich.console import Console
from rich.table import Table

PAUSE_SECONDS = 2.0


@dataclass(frozen=True)
class Workload:
    """One line of the table; ``must`` is how many times better than Ray we have to be."""

    title: str
    more_is_better: bool
    must: float | None = None


WORKLOADS = {
    "init": Workload("init, cold (private cluster)", False),
    "first_actor": Workload("first actor ready", False),
    "next_actor": Workload("next actor ready", False, must=5.0),
    "many_actors": Workload("30 actors at once", False, must=5.0),
    "sync": Workload("1:1 synchronous", True, must=1.0),
    "pipelined": Workload("1:1 pipelined, 1,000 in flight", True, must=3.0),
    "tasks_sync": Workload("tasks, synchronous", True),
}
PEERS = (OURS, CELERY, RAY)


def main() -> int:
    options = _options()
    console = Console(width=None if sys.stdout.isatty() else 150)
    RESULTS.mkdir(exist_ok=True)
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    failures: list[str] = []
    notes: list[str] = []
    interpreters = _interpreters(failures)
    rounds: list[Round] = []
    for number in range(options.rounds):
        console.print(f"round {number + 1} of {options.rounds}, load {os.getloadavg()[0]:.1f}")
        rounds += _one_round(number, interpreters, options, stamp, failures, notes)
    workloads = {name: _compare(name, rounds) for name in options.only}
    summary = {
        "when": stamp,
        "options": {"rounds": options.rounds, "quick": options.quick, "only": options.only},
        "machine": _machine(),
        "versions": _versions(rounds),
        "rounds": [_public(measured) for measured in rounds],
        "workloads": workloads,
        "failures": failures,
        "notes": notes,
    }
    path = RESULTS / f"bench-{stamp}.json"
    path.write_text(json.dumps(summary, indent=2) + "\n")
    console.print(_table(summary))
    for note in notes:
        console.print(f"note: {note}", highlight=False, markup=False)
    for failure in failures:
        console.print(f"failed: {failure}", style="red", highlight=False, markup=False)
    console.print(f"written to {path.relative_to(Path.cwd()) if _below_cwd(path) else path.name}")
    compared: list[dict[str, Any]] = list(workloads.values())
    reached = [one["reached"] for one in compared if one["must"] is not None]
    return 0 if all(reached) and not failures else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="less of everything, coarse figures")
    parser.add_argument(
        "--only",
        type=_names,
        default=list(WORKLOADS),
        metavar="NAMES",
        help=f"of {', '.join(WORKLOADS)}; separated by commas",
    )
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in WORKLOADS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no such workload: {', '.join(unknown)}")
    return names


def _interpreters(failures: list[str]) -> dict[str, str]:
    found = {}
    for spec in PEERS:
        try:
            found[spec.name] = spec.interpreter()
        except (EnvironmentFailed, OSError, subprocess.CalledProcessError) as error:
            failures.append(f"{spec.title} is left out: {error}")
    return found


def _one_round(
    number: int,
    interpreters: dict[str, str],
    options: argparse.Namespace,
    stamp: str,
    failures: list[str],
    notes: list[str],
) -> list[Round]:
    """Run every peer once; Ray goes first in every other round."""

    def start(spec: PeerSpec, environment: dict[str, str] | None = None) -> Any:
        return round_of(
            spec,
            interpreters[spec.name],
            options.only,
            quick=options.quick,
            log=RESULTS / f"bench-{stamp}-{spec.name}.log",
            environment=environment,
        )

    def ours_and_celery() -> None:
        with start(OURS) as measured:
            rounds.append(measured)
            session = measured.announced["session_dir"]
            notes.extend(f"round {number + 1}, log: {line}" for line in log_problems(session))
            if CELERY.name in interpreters and {"sync", "pipelined"} & set(options.only):
                with start(CELERY, measured.announced["brokers"]) as stock:
                    rounds.append(stock)
        failures.extend(f"round {number + 1}, left behind: {what}" for what in leftovers(session))

    def ray() -> None:
        if RAY.name in interpreters:
            with start(RAY) as measured:
                rounds.append(measured)

    rounds: list[Round] = []
    for turn in (ours_and_celery, ray) if number % 2 == 0 else (ray, ours_and_celery):
        try:
            turn()
        except (PeerError, subprocess.TimeoutExpired) as error:
            failures.append(f"round {number + 1}: {error}")
        time.sleep(PAUSE_SECONDS)  # what was stopped ends meanwhile
    return rounds


# -- what comes of it ------------------------------------------------------------------------


def _compare(name: str, rounds: Sequence[Round]) -> dict[str, Any]:
    """Medians of each peer, and how many times better than the others we are."""
    workload = WORKLOADS[name]
    values = {
        spec.name: [m.results[name]["value"] for m in rounds if _has(m, spec, name)]
        for spec in PEERS
    }
    units = [m.results[name]["unit"] for m in rounds if name in m.results]
    compared: dict[str, Any] = {
        "unit": units[0] if units else "",
        "must": workload.must,
        "reached": None if workload.must is None else False,
        "peers": {
            peer: {"median": statistics.median(v), "low": min(v), "high": max(v), "values": v}
            for peer, v in values.items()
            if v
        },
        "ratios": {},
    }
    for peer in (RAY.name, CELERY.name):
        if values[OURS.name] and values[peer]:
            ours, other = statistics.median(values[OURS.name]), statistics.median(values[peer])
            ratio = ours / other if workload.more_is_better else other / ours
            compared["ratios"][peer] = ratio
            if peer == RAY.name and workload.must is not None:
                compared["reached"] = ratio >= workload.must
    return compared


def _has(measured: Round, spec: PeerSpec, name: str) -> bool:
    return measured.peer == spec.name and name in measured.results


def _table(summary: dict[str, Any]) -> Table:
    rounds = summary["options"]["rounds"]
    table = Table(title=f"medians of {rounds} round(s), lowest and highest in parentheses")
    table.add_column("workload")
    for spec in PEERS:
        table.add_column(spec.title, justify="right")
    table.add_column("against Ray", justify="right")
    table.add_column("must", justify="right")
    table.add_column("")
    table.add_column("against Celery", justify="right")
    for name, compared in summary["workloads"].items():
        cells = [_cell(compared, spec) for spec in PEERS]
        must = compared["must"]
        verdict = {None: "", True: "[green]pass[/green]", False: "[red]FAIL[/red]"}
        table.add_row(
            WORKLOADS[name].title,
            *cells,
            _ratio(compared, RAY),
            "" if must is None else f"{must:g}x",
            verdict[compared["reached"]],
            _ratio(compared, CELERY),
        )
    return table


def _cell(compared: dict[str, Any], spec: PeerSpec) -> str:
    figures = compared["peers"].get(spec.name)
    if figures is None:
        return "-"
    numbers = [_number(figures[key], compared["unit"]) for key in ("median", "low", "high")]
    unit = "/s" if compared["unit"] == "calls/s" else " s"
    return f"{numbers[0]}{unit} ({numbers[1]} to {numbers[2]})"


def _number(value: float, unit: str) -> str:
    return f"{value:,.0f}" if unit == "calls/s" else f"{value:.3f}"


def _ratio(compared: dict[str, Any], spec: PeerSpec) -> str:
    ratio = compared["ratios"].get(spec.name)
    return "-" if ratio is None else f"{ratio:.2f}x"


def _public(measured: Round) -> dict[str, Any]:
    """A round for the file: without addresses and passwords."""
    return {
        "peer": measured.peer,
        "load_before": measured.load_before,
        "stop_seconds": measured.stop_seconds,
        "results": measured.results,
    }


def _versions(rounds: Sequence[Round]) -> dict[str, str]:
    versions = {m.peer: m.announced["version"] for m in rounds if "version" in m.announced}
    versions["python"] = platform.python_version()
    for package in ("celery", "kombu", "amqp", "redis", "hiredis"):
        versions[package] = version(package)
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    versions["commit"] = described.stdout.strip()
    return versions


def _machine() -> dict[str, Any]:
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "kernel": platform.release()}


def _below_cwd(path: Path) -> bool:
    return path.is_relative_to(Path.cwd())


if __name__ == "__main__":
    sys.exit(main())
