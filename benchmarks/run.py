"""``make bench``: this package against Ray, xoscar, dask, stock Celery and the floor, in one run.

    python benchmarks/run.py [--rounds 2] [--quick | --full] [--only sync,pipelined]
                             [--peers ours,ray]

Each round runs every peer once, one after another, each in processes of its own; stock Celery
and the floor run on the brokers of this package's private cluster.  What is compared are the
medians over the rounds, in ratios: those of one run on one machine can be compared, absolute
figures of different machines can't.  The status is 1 where something required is not reached.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any

from chart import chart
from cluster_processes import leftovers, log_problems
from environments import EnvironmentFailed
from goals import WORKLOADS
from peers import (
    CELERY,
    DASK,
    FLOOR,
    OURS,
    RAY,
    RESULTS,
    XOSCAR,
    PeerError,
    PeerSpec,
    Round,
    round_of,
)
from report import all_reached, compare, latency_table, table_of
from rich.console import Console
from shared import machine, names_of, on_what, short, versions

PAUSE_SECONDS = 2.0
PEERS = (OURS, RAY, XOSCAR, DASK, CELERY, FLOOR)
ON_OUR_BROKERS = (CELERY, FLOOR)
CALLS = {"sync", "pipelined", "eight_kb"}  # what those two take part in


def main() -> int:
    options = _options()
    console = Console(width=None if sys.stdout.isatty() else 170)
    RESULTS.mkdir(exist_ok=True)
    begun = datetime.now(timezone.utc)
    stamp = begun.strftime("%Y%m%dT%H%M%SZ")
    failures: list[str] = []
    notes: list[str] = []
    interpreters = _interpreters(options.peers, failures)
    rounds: list[Round] = []
    for number in range(options.rounds):
        console.print(f"round {number + 1} of {options.rounds}, load {os.getloadavg()[0]:.1f}")
        new = _one_round(number, interpreters, options, stamp, failures, notes)
        failures += [f"round {number + 1}: {why}" for one in new for why in one.failures]
        rounds += new
    workloads = {name: compare(name, rounds, options.peers) for name in options.only}
    summary = {
        "when": stamp,
        "seconds": (datetime.now(timezone.utc) - begun).total_seconds(),
        "options": {
            "rounds": options.rounds,
            "extent": options.extent,
            "only": options.only,
            "peers": options.peers,
        },
        "machine": machine(),
        "versions": _versions(rounds),
        "rounds": [_public(measured) for measured in rounds],
        "workloads": workloads,
        "failures": failures,
        "notes": notes,
    }
    path = RESULTS / f"bench-{stamp}.json"
    path.write_text(json.dumps(summary, indent=2) + "\n")
    subtitle = f"{stamp}, {options.rounds} round(s), {on_what()}"
    picture = path.with_suffix(".svg")
    picture.write_text(chart(workloads, PEERS, subtitle))
    console.print(table_of(workloads, options.rounds, PEERS))
    latencies = latency_table(rounds)
    if latencies is not None:
        console.print(latencies)
    for note in notes:
        console.print(f"note: {note}", highlight=False, markup=False)
    for failure in failures:
        console.print(f"failed: {failure}", style="red", highlight=False, markup=False)
    for written in (path, picture):
        console.print(f"written to {short(written)}", highlight=False)
    return 0 if all_reached(workloads) and not failures else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2)
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument(
        "--quick",
        dest="extent",
        action="store_const",
        const="quick",
        default="",
        help="less of everything, coarse figures",
    )
    extent.add_argument(
        "--full",
        dest="extent",
        action="store_const",
        const="full",
        help="also 1 GB, percentiles at fixed rates, and Ray's 300 actors in every round",
    )
    parser.add_argument(
        "--only",
        type=names_of(list(WORKLOADS)),
        metavar="NAMES",
        help=f"of {', '.join(WORKLOADS)}; separated by commas",
    )
    names = [spec.name for spec in PEERS]
    parser.add_argument(
        "--peers",
        type=names_of(names),
        default=names,
        metavar="NAMES",
        help=f"of {', '.join(names)}; separated by commas",
    )
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    if OURS.name not in options.peers:
        parser.error("--peers must have ours: it is what the others are compared with")
    if options.only is None:
        full = options.extent == "full"
        options.only = [name for name, one in WORKLOADS.items() if full or not one.full_only]
    return options


def _interpreters(wanted: Sequence[str], failures: list[str]) -> dict[str, str]:
    found = {}
    for spec in PEERS:
        if spec.name not in wanted:
            continue
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
    """Run every peer once; every other round the other way about."""
    rounds: list[Round] = []
    # Minutes, of which once is enough.
    left_out = {"many_actors"} if number and not options.extent else set()

    def start(spec: PeerSpec, environment: dict[str, str] | None = None) -> Any:
        return round_of(
            spec,
            interpreters[spec.name],
            [name for name in options.only if spec is not RAY or name not in left_out],
            extent=options.extent,
            log=RESULTS / f"bench-{stamp}-{spec.name}.log",
            environment=environment,
        )

    def attempt(spec: PeerSpec, body: Callable[[], None]) -> None:
        try:
            body()
        except (PeerError, subprocess.TimeoutExpired) as error:
            failures.append(f"round {number + 1}: {error}")
        time.sleep(PAUSE_SECONDS)  # what was stopped ends meanwhile

    def alone(spec: PeerSpec, environment: dict[str, str] | None = None) -> None:
        with start(spec, environment) as measured:
            rounds.append(measured)

    def ours_and_beside() -> None:
        with start(OURS) as measured:
            rounds.append(measured)
            session = measured.announced["session_dir"]
            notes.extend(f"round {number + 1}, log: {line}" for line in log_problems(session))
            brokers = measured.announced["brokers"]
            for spec in ON_OUR_BROKERS:
                if spec.name in interpreters and CALLS & set(options.only):
                    attempt(spec, lambda spec=spec: alone(spec, brokers))  # type: ignore[misc]
        failures.extend(f"round {number + 1}, left behind: {what}" for what in leftovers(session))

    turns: list[tuple[PeerSpec, Callable[[], None]]] = [(OURS, ours_and_beside)]
    for spec in (RAY, XOSCAR, DASK):
        if spec.name in interpreters:
            turns.append((spec, lambda spec=spec: alone(spec)))  # type: ignore[misc]
    for spec, turn in turns if number % 2 == 0 else turns[::-1]:
        attempt(spec, turn)
    return rounds


def _public(measured: Round) -> dict[str, Any]:
    """A round for the file: without addresses and passwords."""
    return {
        "peer": measured.peer,
        "load_before": measured.load_before,
        "stop_seconds": measured.stop_seconds,
        "results": measured.results,
    }


def _versions(rounds: Sequence[Round]) -> dict[str, str]:
    peers = {m.peer: m.announced["version"] for m in rounds if "version" in m.announced}
    return {**peers, **versions()}


if __name__ == "__main__":
    sys.exit(main())
