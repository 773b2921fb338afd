"""The document's program: four tasks call a counter for ever, and its value is read meanwhile.

    python benchmarks/counter_loop.py [--minutes 5]

First it is read until ten readings have risen: within ten seconds of the tasks' submission.
Then the counter is read every second, and the memory of every process of the cluster is
recorded.  A process is flat when it grows by less than 5 MB or 5 % after the first minute.  The
status is 1 where the readings come late or something isn't flat.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any, Protocol

import psutil
import redis
from cluster_processes import ClusterProcess, cluster_processes, leftovers, log_problems
from kombu import Connection
from peers import RESULTS
from rich.console import Console
from rich.table import Table

import celery_actors as ray
from celery_actors.client.current import require_process
from celery_actors.ids import mailbox_name

READINGS = 10
READINGS_SECONDS = 10.0
PATIENCE_SECONDS = 120.0
GROWTH_BYTES = 5e6
GROWTH_COUNT = 3.0  # of what is counted: a timer's connection may come and go
GROWTH_SHARE = 0.05
EDGE_SAMPLES = 10
MB = 1e6


@ray.remote
class Counter:
    def __init__(self):
        self.counter = 0

    def inc(self):
        self.counter += 1

    def get_counter(self):
        return self.counter


@ray.remote
def f(counter):
    while True:
        counter.inc.remote()


@dataclass
class Series:
    """One figure over time; ``limited`` says that it has to stay flat."""

    name: str
    unit: str
    limited: bool
    seconds: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, at: float, value: float) -> None:
        self.seconds.append(at)
        self.values.append(value)


class Add(Protocol):
    """Adds a value to the series of that name."""

    def __call__(self, name: str, unit: str, value: float, *, limited: bool = False) -> None: ...


@dataclass
class Row:
    """What a series comes down to."""

    name: str
    unit: str
    start: float
    after_warm_up: float
    end: float
    highest: float
    slope_per_minute: float
    flat: bool | None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5.0)
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 130)

    session = ray.init("local", num_cpus=4)  # each running task holds one CPU
    assert session.session_dir is not None
    counter = Counter.remote()
    [f.remote(counter) for _ in range(4)]
    submitted = time.monotonic()
    readings = read_ten(counter, submitted)
    ten_after = readings[-1]["after"]
    values = [reading["value"] for reading in readings]
    console.print("readings:", *values, f"(after {ten_after:.2f} s)")

    series = watch(counter, session.session_dir, options.minutes * 60, console)
    problems = log_problems(session.session_dir)
    begun = time.monotonic()
    ray.shutdown()
    stop_seconds = time.monotonic() - begun
    left = leftovers(session.session_dir)

    warm_up = min(60.0, options.minutes * 30)
    rows = [summarise(one, warm_up) for one in series]
    console.print(table_of(rows, warm_up))
    flat = all(row.flat for row in rows if row.flat is not None)
    in_time = len(readings) == READINGS and ten_after <= READINGS_SECONDS
    console.print(
        f"ten rising readings within {READINGS_SECONDS:g} s: {'yes' if in_time else 'NO'}"
    )
    console.print(f"memory flat: {'yes' if flat else 'NO'}")
    console.print(f"shutdown() took {stop_seconds:.2f} s and left {left or 'nothing'}")
    for problem in problems:
        console.print(f"log: {problem}", highlight=False, markup=False)
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    write(
        f"counter-loop-{stamp}",
        {
            "when": stamp,
            "minutes": options.minutes,
            "warm_up_seconds": warm_up,
            "readings": readings,
            "rising_in_time": in_time,
            "flat": flat,
            "rows": [asdict(row) for row in rows],
            "series": [asdict(one) for one in series],
            "stop_seconds": stop_seconds,
            "left": left,
            "log": problems,
        },
    )
    return 0 if in_time and flat and not left else 1


def read_ten(counter: Any, submitted: float) -> list[dict[str, float]]:
    """Read the counter, one reading after another, until ten were higher than the one before.

    A reading takes less than a millisecond until the first tasks run, so equal ones are no
    fault: they are left out.
    """
    readings: list[dict[str, float]] = []
    last = 0
    while len(readings) < READINGS and time.monotonic() - submitted < PATIENCE_SECONDS:
        begun = time.monotonic()
        value = ray.get(counter.get_counter.remote(), timeout=PATIENCE_SECONDS)
        now = time.monotonic()
        if value < last:
            raise RuntimeError(f"the counter fell from {last} to {value}")
        if value > last:
            readings.append({"value": value, "after": now - submitted, "took": now - begun})
        last = value
    return readings


def watch(counter: Any, session_dir: str, seconds: float, console: Console) -> list[Series]:
    """Read the counter and sample everything once a second."""
    last_value, last_at = 0, 0.0

    def read(add: Add) -> None:
        nonlocal last_value, last_at
        asked = time.monotonic()
        value = ray.get(counter.get_counter.remote(), timeout=60)
        now = time.monotonic()
        if last_value:
            add("increments", "/s", (value - last_value) / (now - last_at))
        add("reading takes", "ms", (now - asked) * 1e3)
        if value <= last_value:
            raise RuntimeError(f"the counter fell from {last_value} to {value}")
        last_value, last_at = value, now

    return sampled(session_dir, seconds, console, mailbox_name(counter._celery_actor), read)


def sampled(
    session_dir: str, seconds: float, console: Console, mailbox: str, read: Callable[[Add], None]
) -> list[Series]:
    """Once a second, sample memory and a mailbox; ``read`` comes first, and adds its own."""
    settings = require_process().settings
    processes: dict[str, ClusterProcess] = {}
    found: dict[str, Series] = {}

    def add(name: str, unit: str, value: float, *, limited: bool = False) -> None:
        one = found.setdefault(name, Series(name, unit, limited))
        one.add(time.monotonic() - begun, value)

    begun = time.monotonic()
    with (
        redis.Redis.from_url(settings.result_backend) as client,
        Connection(settings.broker_url) as connection,
        connection.channel() as channel,
    ):
        due = begun
        while due - begun <= seconds:
            time.sleep(max(0.0, due - time.monotonic()))
            read(add)
            for name, process in named_processes(session_dir, processes).items():
                try:
                    add(f"{name}, RSS", "MB", process.process.memory_info().rss / MB, limited=True)
                except psutil.NoSuchProcess:
                    console.print(f"{name} (pid {process.pid}) has ended", style="red")
                    del processes[name]
            memory = client.info("memory")["used_memory"]
            add("Redis, used_memory", "MB", memory / MB, limited=True)
            add("Redis, keys", "", client.dbsize())
            waiting = channel.queue_declare(mailbox, passive=True).message_count
            add("messages in the mailbox", "", waiting)
            due += 1.0
    return list(found.values())


def named_processes(
    session_dir: str, known: dict[str, ClusterProcess]
) -> dict[str, ClusterProcess]:
    """Give each process a name of its own that it keeps: ``task executor 2``."""
    pids = {process.pid for process in known.values()}
    for process in cluster_processes(session_dir):
        if process.pid not in pids:
            number = 1
            while (name := f"{process.kind} {number}" if number > 1 else process.kind) in known:
                number += 1
            known[name] = process
    return dict(known)


def summarise(series: Series, warm_up: float) -> Row:
    """Reduce a series to a few figures; an edge is the median of ten samples."""
    values = series.values
    late = [pair for pair in zip(series.seconds, values, strict=True) if pair[0] >= warm_up]
    after = statistics.median([value for _, value in late[:EDGE_SAMPLES]] or values[-1:])
    end = statistics.median(values[-EDGE_SAMPLES:])
    slope = 0.0
    if len(late) > 1:
        slope = statistics.linear_regression(*zip(*late, strict=True)).slope * 60
    flat = None
    if series.limited:
        allowed = GROWTH_BYTES / MB if series.unit == "MB" else GROWTH_COUNT
        flat = end - after < max(allowed, GROWTH_SHARE * after)
    return Row(series.name, series.unit, values[0], after, end, max(values), slope, flat)


def table_of(
    rows: list[Row], warm_up: float, title: str = "four tasks call the counter for ever"
) -> Table:
    table = Table(title=title)
    headers = ("", "start", f"after {warm_up:g} s", "end", "highest", "slope a minute", "flat")
    for index, header in enumerate(headers):
        table.add_column(header, justify="left" if index == 0 else "right")
    for row in rows:
        figures = (row.start, row.after_warm_up, row.end, row.highest)
        table.add_row(
            f"{row.name} ({row.unit})" if row.unit else row.name,
            *[f"{figure:,.1f}" for figure in figures],
            f"{row.slope_per_minute:+,.2f}",
            {None: "", True: "yes", False: "[red]NO[/red]"}[row.flat],
        )
    return table


def write(name: str, summary: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(summary, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
