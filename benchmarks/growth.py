"""``make growth``: how cost grows with actors, callers, payload, a queue's depth and age.

    python benchmarks/growth.py [--minutes 5] [--quick] [--only actors,callers,payload,depth,age]

This package alone.  Each series has a private cluster of its own, so that none sees what another
left.  While the cluster ages it has the same load every second, and a process is flat when it
grows by less than 5 MB or 5 % after the first minute.  The status is 1 where a result was wrong,
something isn't flat, or a cluster left something behind.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

import growth_series
from cluster_processes import leftovers, log_problems
from counter_loop import Row, Series, summarise
from counter_loop import table_of as table_of_age
from growth_depth import MEMORY_OF, depth
from growth_series import COARSE, Extent, Point
from line_chart import Line, Panel, few_letters, line_charts
from peers import RESULTS
from rich.console import Console
from rich.table import Table
from shared import machine, names_of, on_what, short, versions
from systems.raylike import Ours

AGE = "age"
# Of the processes in the table of ages, those whose memory the picture shows.
DRAWN = (
    "driver",
    "actor Counter",
    "actor Caller",
    "node worker",
    "fork server",
    "RabbitMQ",
    "Redis",
)


@dataclass(frozen=True)
class Figures:
    """Lines of one unit, which a chart shows together."""

    title: str
    unit: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Measurement:
    """A series: what grows, what is shown of it, and how it is measured."""

    title: str
    against: str
    shown: tuple[Figures, ...]
    measure: Callable[[Ours, Extent], Iterator[Point]]


MEASUREMENTS = {
    "actors": Measurement(
        "living actors",
        "actors",
        (
            Figures("pipelined", "calls/s", ("to one", "to all")),
            Figures(
                "synchronous",
                "µs",
                ("p50, to one", "p99, to one", "p50, to all", "p99, to all"),
            ),
        ),
        growth_series.actors,
    ),
    "callers": Measurement(
        "callers of one actor",
        "callers",
        (Figures("pipelined", "calls/s", ("all callers", "a caller")),),
        growth_series.callers,
    ),
    "payload": Measurement(
        "bytes of an argument",
        "bytes",
        (
            Figures("pipelined", "calls/s", ("calls",)),
            Figures("synchronous", "µs", ("p50", "p99")),
            Figures("pipelined, in bytes", "MB/s", ("MB/s",)),
        ),
        growth_series.payload,
    ),
    "depth": Measurement(
        "calls that wait for an actor",
        "waiting",
        (
            Figures("into the queue and out of it", "calls/s", ("queued", "drained")),
            Figures("a call takes, drained", "µs", ("a call",)),
            Figures("memory while all wait", "MB", tuple(MEMORY_OF)),
        ),
        depth,
    ),
}
SERIES = (*MEASUREMENTS, AGE)


@dataclass
class Outcome:
    """What the run came to."""

    points: dict[str, list[Point]] = field(default_factory=dict)
    ages: list[Series] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def flat(self) -> bool | None:
        """Whether all that must stay flat did; ``None``: it was not measured."""
        verdicts = [row.flat for row in self.rows if row.flat is not None]
        return all(verdicts) if verdicts else None


def main() -> int:
    options = _options()
    extent = COARSE if options.quick else Extent()
    if options.minutes is not None:
        extent = replace(extent, minutes=options.minutes)
    console = Console(width=None if sys.stdout.isatty() else 130)
    begun = datetime.now(timezone.utc)
    outcome = Outcome()
    warm_up = min(60.0, extent.minutes * 30)
    for name in options.only:
        _in_a_cluster(name, extent, outcome, console)
    outcome.rows = [summarise(one, warm_up) for one in outcome.ages]
    _show(console, outcome, warm_up)
    stamp = begun.strftime("%Y%m%dT%H%M%SZ")
    summary = {
        "when": stamp,
        "seconds": (datetime.now(timezone.utc) - begun).total_seconds(),
        "options": {"only": options.only, "quick": options.quick, **asdict(extent)},
        "machine": machine(),
        "versions": versions(),
        "series": {name: _public(name, points) for name, points in outcome.points.items()},
        AGE: {
            "warm_up_seconds": warm_up,
            "flat": outcome.flat,
            "rows": [asdict(row) for row in outcome.rows],
            "series": [asdict(one) for one in outcome.ages],
        },
        "failures": outcome.failures,
        "notes": outcome.notes,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"growth-{stamp}.json"
    path.write_text(json.dumps(summary, indent=2) + "\n")
    picture = path.with_suffix(".svg")
    subtitle = f"{stamp}, {'coarse, ' if options.quick else ''}{on_what()}"
    picture.write_text(line_charts(_charts(outcome), "How cost grows", subtitle))
    for written in (path, picture):
        console.print(f"written to {short(written)}", highlight=False)
    return 1 if outcome.failures or outcome.flat is False else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="coarse figures, in about a minute")
    parser.add_argument(
        "--minutes",
        type=float,
        help="for how long the cluster ages (5; an hour says more; 0.2 with --quick)",
    )
    parser.add_argument(
        "--only",
        type=names_of(SERIES),
        default=list(SERIES),
        metavar="NAMES",
        help=f"of {', '.join(SERIES)}; separated by commas",
    )
    options = parser.parse_args()
    if options.minutes is not None and options.minutes <= 0:
        parser.error("--minutes must be above 0")
    return options


def _in_a_cluster(name: str, extent: Extent, outcome: Outcome, console: Console) -> None:
    """Measure one series in a private cluster; a failure is noted, and the others follow."""
    peer = Ours()
    session_dir = None
    try:
        peer.start()
        session_dir = peer.announce()["session_dir"]
        if name == AGE:
            console.print(f"{AGE}: {extent.minutes:g} minutes", highlight=False)
            outcome.ages = growth_series.age(peer, extent, console)
        else:
            points = outcome.points[name] = []
            for point in MEASUREMENTS[name].measure(peer, extent):
                points.append(point)
                console.print(f"{name}: {point.at:,} done", highlight=False)
    except Exception:  # noqa: BLE001  # it is shown, and the run then ends with status 1
        outcome.failures.append(f"{name}: {traceback.format_exc()[-1500:]}")
    finally:
        if session_dir is not None:
            outcome.notes += [f"{name}, log: {line}" for line in log_problems(session_dir)]
        begun = time.monotonic()
        peer.stop()
        outcome.notes.append(f"{name}: shutdown() took {time.monotonic() - begun:.2f} s")
        if session_dir is not None:
            outcome.failures += [f"{name}, left behind: {what}" for what in leftovers(session_dir)]


def _show(console: Console, outcome: Outcome, warm_up: float) -> None:
    for name, points in outcome.points.items():
        console.print(_table(MEASUREMENTS[name], points))
    if outcome.rows:
        load = f"{2 * growth_series.LOAD_CALLS:,} pipelined calls every second"
        console.print(table_of_age(outcome.rows, warm_up, load))
        console.print(f"memory flat: {'yes' if outcome.flat else 'NO'}")
    for note in outcome.notes:
        console.print(f"note: {note}", highlight=False, markup=False)
    for failure in outcome.failures:
        console.print(f"failed: {failure}", style="red", highlight=False, markup=False)


def _table(measurement: Measurement, points: list[Point]) -> Table:
    table = Table(title=measurement.title)
    table.add_column(measurement.against, justify="right")
    columns = [(shown, name) for shown in measurement.shown for name in shown.lines]
    for shown, name in columns:
        header = name if name == shown.unit else f"{name}, {shown.unit}"
        table.add_column(header, justify="right")
    for point in points:
        table.add_row(
            few_letters(point.at), *[f"{point.figures[name]:,.0f}" for _, name in columns]
        )
    return table


def _public(name: str, points: list[Point]) -> dict[str, Any]:
    measurement = MEASUREMENTS[name]
    return {
        "title": measurement.title,
        "against": measurement.against,
        "units": {line: shown.unit for shown in measurement.shown for line in shown.lines},
        "points": [asdict(point) for point in points],
    }


def _charts(outcome: Outcome) -> list[tuple[str, list[Panel]]]:
    rows = []
    for name, points in outcome.points.items():
        measurement = MEASUREMENTS[name]
        panels = [
            Panel(
                f"{shown.title}, {shown.unit}",
                measurement.against,
                tuple(
                    Line(line, tuple((point.at, point.figures[line]) for point in points))
                    for line in shown.lines
                ),
            )
            for shown in measurement.shown
        ]
        rows.append((f"Against {measurement.title}", panels))
    if outcome.ages:
        rows.append(("Against the cluster's age", _charts_of_age(outcome.ages)))
    return rows


def _charts_of_age(ages: list[Series]) -> list[Panel]:
    """Charts of memory and of the two speeds; their axis is even, so that drift shows."""

    def lines(wanted: Callable[[Series], bool]) -> tuple[Line, ...]:
        return tuple(
            Line(
                one.name.removesuffix(", RSS"),
                tuple((at / 60, value) for at, value in zip(one.seconds, one.values, strict=True)),
            )
            for one in ages
            if wanted(one)
        )

    shown = (
        ("memory, MB", lambda one: one.name in [f"{name}, RSS" for name in DRAWN]),
        ("pipelined, calls/s", lambda one: one.unit == "/s"),
        ("synchronous, µs", lambda one: one.unit == "µs"),
    )
    return [Panel(title, "minutes", lines(wanted), powers=False) for title, wanted in shown]


if __name__ == "__main__":
    sys.exit(main())
