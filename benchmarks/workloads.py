"""Runs the workloads on one peer, in processes of its own.

Runs with the interpreter of the peer's own virtual environment, so it needs nothing but the
standard library, numpy and the peer.  Prints one JSON object a line:

    {"workload": "sync", "value": 1234.5, "unit": "calls/s", "samples": [...], "details": {...}}

A result is printed only when every value that came back was right.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import measures
from measures import QUICK, Amount, Measured
from systems.base import Peer

SETTLE_SECONDS = 1.0
PEERS = {
    "ours": ("systems.raylike", "Ours"),
    "ray": ("systems.raylike", "Ray"),
    "celery": ("systems.celery_worker", "StockCelery"),
    "xoscar": ("systems.xoscar_pool", "Xoscar"),
    "dask": ("systems.dask_cluster", "Dask"),
    "floor": ("systems.floor", "Floor"),
}
SIZES = {"1kb": 1000, "1mb": 1_000_000, "100mb": 100_000_000, "1gb": 1_000_000_000}


def steps_of(peer: Any, amount: Amount, actor: Any) -> list[tuple[str, Callable[[], Measured]]]:
    """All workloads, in an order in which none disturbs the next."""
    m = measures
    steps: list[tuple[str, Callable[[], Measured]]] = [
        ("sync", lambda: m.one_by_one(peer, amount, actor, m.no_arguments)),
        ("sync_by_mailbox", lambda: m.by_mailbox(peer, amount, actor)),
        ("pipelined", lambda: m.pipelined(peer, amount, actor)),
        ("eight_kb", lambda: m.eight_kb(peer, amount, actor)),
        ("latency", lambda: m.latency(peer, amount, actor)),
        ("one_to_four", lambda: m.fan(peer, amount, 1, 4)),
        ("four_to_one", lambda: m.fan(peer, amount, 4, 1)),
        ("four_to_four", lambda: m.fan(peer, amount, 4, 4)),
        ("async_actor", lambda: m.async_actor(peer, amount)),
        ("events", lambda: m.events(peer, amount)),
        ("tasks_sync", lambda: m.one_by_one(peer, amount, None, lambda number: (number,))),
        ("tasks_pipelined", lambda: m.tasks_pipelined(peer, amount)),
        ("tasks_burst", lambda: m.tasks_burst(peer, amount)),
        ("tasks_burst_share", lambda: m.tasks_burst_share(peer, amount)),
    ]
    for name, nbytes in SIZES.items():
        steps.append((f"put_{name}", lambda n=nbytes: m.put(peer, amount, n)))
        steps.append((f"get_{name}", lambda n=nbytes: m.get(peer, amount, n)))
    steps += [
        ("pass_ref", lambda: m.pass_ref(peer, amount)),
        ("put_in_a_loop", lambda: m.put_in_a_loop(peer, amount)),
        ("pass_after_puts", lambda: m.pass_after_puts(peer, amount)),
        ("idle_memory", lambda: m.idle_memory(peer, amount)),
        ("next_actor", lambda: m.next_actor(peer, amount)),
        ("many_actors", lambda: m.many_actors(peer, amount)),
    ]
    return steps


def run(peer: Peer, wanted: Sequence[str], amount: Amount, emit: Callable[[Any], None]) -> None:
    """Run the wanted workloads."""

    def report(name: str, result: Measured) -> None:
        if name in wanted and name in peer.workloads:
            emit({"workload": name, **vars(result)})

    def attempt(name: str, measure: Callable[[], Measured]) -> None:
        if name not in wanted or name not in peer.workloads:
            return
        try:
            report(name, measure())
        except Exception:  # noqa: BLE001  # reported; the other workloads are measured
            emit({"failed": name, "why": traceback.format_exc()[-1500:]})
        time.sleep(SETTLE_SECONDS)  # actors whose handles are gone end meanwhile

    attempt("init_warm", lambda: measures.init_warm(peer, amount))  # type: ignore[arg-type]
    begun = time.perf_counter()
    peer.start()
    started = time.perf_counter() - begun
    report("init", Measured(started, "s", [started]))
    actor, first = measures.make_one(peer)
    report("first_actor", Measured(first, "s", [first]))
    for name, measure in steps_of(peer, amount, actor):
        attempt(name, measure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", choices=sorted(PEERS), required=True)
    parser.add_argument("--workloads", required=True, help="names, separated by commas")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--hold", action="store_true", help="stay up until standard input ends")
    options = parser.parse_args()

    # What peers and their actors print must not come between our lines.
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def emit(line: Any) -> None:
        lines.write(json.dumps(line) + "\n")

    module, name = PEERS[options.peer]
    peer: Peer = getattr(importlib.import_module(module), name)()
    amount = QUICK if options.quick else Amount()
    try:
        run(peer, options.workloads.split(","), amount, emit)
        emit({"announce": peer.announce()})
        if options.hold:
            sys.stdin.read()
    finally:
        peer.stop()
    emit({"stopped": True})
    return 0


if __name__ == "__main__":
    sys.exit(main())
