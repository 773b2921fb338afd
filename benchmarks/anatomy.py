"""Where each microsecond of a call goes: its stages, and the CPU that each process takes for it.

    python benchmarks/anatomy.py [--calls 4000] [--picture docs/images/anatomy.svg]

Synchronous calls, one after another, are stamped on their way through the driver, RabbitMQ, the
actor, Redis and back (see anatomy_stamps.py); blocks of calls without stamps between them tell
what the stamps cost.  Then the CPU of every process is taken, of the calls without stamps and of
calls of which a thousand are under way at a time.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from anatomy_picture import draw
from anatomy_stamps import (
    BEGIN,
    END,
    EXPRESS_STEPS,
    IN_ACTOR,
    IN_DRIVER,
    METHOD,
    ON_THE_WAY,
    RETURNED,
    STEPS,
    Anatomy,
    Spread,
    Stamps,
    Times,
    cost_of_a_stamp,
    dissect,
    probes_of,
)
from anatomy_work import Meter, Work, bare_hop, machine, redis_exchange
from cluster_processes import leftovers
from peers import RESULTS
from rich.console import Console
from rich.table import Table

import celery_actors as ray
from celery_actors.client.current import require_process

BLOCKS = 10  # of calls with stamps, and as many without
WARM_UP = 500
WINDOW = 1000  # calls under way at a time
PIPELINED = 30  # so many of them for each synchronous one: CPU is counted in ticks of 10 ms


@ray.remote
class Counter:
    def __init__(self, express: bool) -> None:
        self.value = 0
        self.stamps = Stamps(probes_of(IN_ACTOR, express))

    def increment(self) -> int:
        self.value += 1
        return self.value

    def put_stamps(self) -> None:
        self.stamps.put()
        self.stamps.wrap(self, "increment", *METHOD)

    def take_stamps_away(self) -> None:
        self.stamps.take_away()

    def times(self) -> Times:
        return self.stamps.times


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=4000, help="synchronous calls with stamps")
    parser.add_argument(
        "--express", action="store_true", help="calls go to the actor past RabbitMQ, where they may"
    )
    parser.add_argument("--picture", type=Path, help="where the SVG goes (default: the results)")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 130)

    hop = bare_hop()
    session = ray.init("local")
    assert session.session_dir is not None
    process = require_process()
    process.settings = replace(process.settings, express=options.express)
    counter: Any = Counter.remote(options.express)
    one_by_one(counter, WARM_UP)
    anatomy, plain = stamped(counter, max(options.calls // BLOCKS, 100), options.express)
    with Meter(session.session_dir) as meter:
        synchronous = meter.read(options.calls, lambda: one_by_one(counter, options.calls))
        windows = max(options.calls * PIPELINED // WINDOW, 1)
        pipelined(counter, 3)
        many = meter.read(windows * WINDOW, lambda: pipelined(counter, windows))
        exchange = redis_exchange(meter.client)
        where = machine(meter.client, require_process().settings)
    ray.shutdown()

    stamp = cost_of_a_stamp()
    summary: dict[str, Any] = {
        "when": datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ"),
        "machine": where,
        "anatomy": {
            **asdict(anatomy),
            "steps": [
                {"stage": stage, "step": step, **asdict(spread)}
                for (stage, step), spread in anatomy.steps.items()
            ],
        },
        "without_stamps": asdict(plain),
        "stamp_nanoseconds": stamp,
        "stamps_on_the_way": ON_THE_WAY,
        "synchronous": asdict(synchronous),
        "pipelined": asdict(many),
        "bare_hop": asdict(hop),
        "redis_ping": asdict(exchange),
        "left": leftovers(session.session_dir),
    }
    show(console, anatomy, plain, stamp)
    show_work(console, synchronous, many)
    console.print(
        f"beside that: one way between two sleeping processes over TCP takes {hop.median:.0f} µs, "
        f"a PING of this Redis {exchange.median:.0f} µs; the cluster left "
        f"{summary['left'] or 'nothing'}"
    )
    write(summary, draw(anatomy, many.cpu, many.rate, where), options.picture)
    return 1 if summary["left"] else 0


def one_by_one(counter: Any, calls: int, times: Times | None = None) -> None:
    """Call and get, as programs do; note when."""
    noted: Times = {} if times is None else times
    begun, returned, ended = (noted.setdefault(name, []) for name in (BEGIN, RETURNED, END))
    for _ in range(calls):
        begin = perf_counter_ns()
        ref = counter.increment.remote()
        between = perf_counter_ns()
        ray.get(ref)
        end = perf_counter_ns()
        begun.append(begin)
        returned.append(between)
        ended.append(end)


def stamped(counter: Any, block: int, express: bool) -> tuple[Anatomy, Spread]:
    """Make blocks of calls with and without stamps in turn; returns what comes of each."""
    stamps = Stamps(probes_of(IN_DRIVER, express))
    without: Times = {}
    for _ in range(BLOCKS):
        one_by_one(counter, block, without)
        ray.get(counter.put_stamps.remote())
        stamps.put()
        one_by_one(counter, block, stamps.times)
        stamps.take_away()
        ray.get(counter.take_stamps_away.remote())
    lengths = [end - begin for begin, end in zip(without[BEGIN], without[END], strict=True)]
    times = {**stamps.times, **ray.get(counter.times.remote())}
    return dissect(times, EXPRESS_STEPS if express else STEPS), Spread.of(lengths)


def pipelined(counter: Any, windows: int) -> None:
    """Call a thousand times, then get all results; again and again."""
    for _ in range(windows):
        values = ray.get([counter.increment.remote() for _ in range(WINDOW)])
        if values != list(range(values[0], values[0] + WINDOW)):
            raise RuntimeError(f"the counter did not count: {values[:3]} … {values[-3:]}")


def show(console: Console, anatomy: Anatomy, plain: Spread, stamp: float) -> None:
    """Print the way, stage by stage and step by step."""
    table = Table(title=f"{anatomy.calls} synchronous calls, microseconds of one")
    for header in ("stage", "step", "where", "median", "p10", "p90"):
        table.add_column(header, justify="right" if header[0] in "mp" else "left")
    for stage, spread in anatomy.stages.items():
        steps = [(step, its) for (of, step), its in anatomy.steps.items() if of == stage]
        only = steps[0][0] if len(steps) == 1 else ""
        table.add_row(f"[bold]{stage}", only, anatomy.where[stage], *figures(spread, "[bold]"))
        for step, its in steps if len(steps) > 1 else ():
            table.add_row("", step, "", *figures(its))
    table.add_section()
    table.add_row("[bold]the whole call", "", "", *figures(anatomy.total, "[bold]"))
    together = sum(spread.median for spread in anatomy.stages.values())
    table.add_row("", "the stages' medians together", "", f"{together:.1f}")
    table.add_row("", "the same without stamps", "", *figures(plain))
    table.add_section()
    for name, spread in anatomy.meanwhile.items():
        table.add_row("meanwhile", name, "", *figures(spread))
    console.print(table)
    console.print(
        f"a stamp costs {stamp:.0f} ns in a tight loop, {ON_THE_WAY} of them lie on the way: "
        f"{ON_THE_WAY * stamp / 1e3:.1f} µs; the medians with and without differ by "
        f"{anatomy.total.median - plain.median:+.1f} µs; {anatomy.left_out} calls left out"
    )


def figures(spread: Spread, mark: str = "") -> list[str]:
    return [f"{mark}{value:.1f}" for value in (spread.median, spread.p10, spread.p90)]


def show_work(console: Console, synchronous: Work, many: Work) -> None:
    """Print what the calls cost in work."""
    table = Table(title="microseconds of CPU a call")
    for header in ("", "synchronous", f"{WINDOW:,} under way"):
        table.add_column(header, justify="right" if header else "left")
    for name in many.cpu:
        table.add_row(name, f"{synchronous.cpu[name]:.0f}", f"{many.cpu[name]:.2f}")
    both = (synchronous, many)
    table.add_row("all", *[f"{sum(work.cpu.values()):.1f}" for work in both])
    table.add_section()
    table.add_row("calls a second", *[f"{work.rate:,.0f}" for work in both])
    table.add_row("calls a message", *[f"{work.calls / work.messages:.1f}" for work in both])
    table.add_row("calls a commit", *[f"{work.calls / work.commits:.1f}" for work in both])
    console.print(table)


def write(summary: dict[str, Any], picture: str, path: Path | None) -> None:
    """Write the JSON to the results, and the picture beside it or where it is wanted."""
    RESULTS.mkdir(exist_ok=True)
    json_path = RESULTS / f"anatomy-{summary['when']}.json"
    json_path.write_text(json.dumps(summary, indent=2) + "\n")
    path = path or json_path.with_suffix(".svg")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(picture)


if __name__ == "__main__":
    sys.exit(main())
