"""What comes of the rounds: medians, ratios, requirements; as a table and as figures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from goals import WORKLOADS, ratio_of
from peers import OURS, PeerSpec, Round
from rich.table import Table


def compare(name: str, rounds: Sequence[Round], wanted: Sequence[str]) -> dict[str, Any]:
    """Return the figures of one workload: each peer's, the ratios to it, the requirements.

    :param wanted: the peers that weren't left out on purpose; those are not required.
    """
    workload = WORKLOADS[name]
    results = [(m.peer, m.results[name]) for m in rounds if name in m.results]
    peers: dict[str, dict[str, Any]] = {}
    for peer, result in results:
        peers.setdefault(peer, {"values": []})["values"].append(result["value"])
    for figures in peers.values():
        values = figures["values"]
        figures |= {"median": statistics.median(values), "low": min(values), "high": max(values)}
    medians = {peer: figures["median"] for peer, figures in peers.items()}
    ours = medians.pop(OURS.name, None)
    better = workload.more_is_better
    ratios = {}
    if ours is not None:
        ratios = {p: ratio_of(ours, v, more_is_better=better) for p, v in medians.items()}
    return {
        "title": workload.title,
        "unit": results[0][1]["unit"] if results else "",
        "more_is_better": better,
        "peers": peers,
        "ratios": ratios,
        "goals": [
            {
                "goal": goal.text(),
                "aim": goal.aim,
                "reached": ours is not None and goal.reached(ours, medians, more_is_better=better),
            }
            for goal in workload.goals
            if not goal.peer or goal.peer in wanted
        ],
    }


def all_reached(workloads: dict[str, dict[str, Any]]) -> bool:
    """Whether every requirement holds; aims are none."""
    goals = [goal for compared in workloads.values() for goal in compared["goals"]]
    return all(goal["reached"] for goal in goals if not goal["aim"])


def table_of(workloads: dict[str, dict[str, Any]], rounds: int, peers: Sequence[PeerSpec]) -> Table:
    """Each peer's median, lowest and highest, how many times better ours is, and the goals."""
    table = Table(
        title=f"medians of {rounds} round(s), (lowest to highest), how many times better ours is",
        show_lines=True,
    )
    table.add_column("workload", max_width=20)
    for spec in peers:
        table.add_column(spec.title, justify="right")
    table.add_column("required")
    for compared in workloads.values():
        table.add_row(
            compared["title"],
            *[_cell(compared, spec.name) for spec in peers],
            "\n".join(_verdict(goal) for goal in compared["goals"]),
        )
    return table


def _cell(compared: dict[str, Any], peer: str) -> str:
    figures = compared["peers"].get(peer)
    if figures is None:
        return ""
    unit = compared["unit"]
    lines = [f"{number(figures['median'], unit)} {unit_of(figures['median'], unit)}"]
    if len(figures["values"]) > 1:
        scale = figures["median"]
        lines.append(
            f"({number(figures['low'], unit, scale)} to {number(figures['high'], unit, scale)})"
        )
    if peer in compared["ratios"]:
        lines.append(f"[bold]{compared['ratios'][peer]:.2f}x[/bold]")
    return "\n".join(lines)


def _verdict(goal: dict[str, Any]) -> str:
    if goal["reached"]:
        return f"{goal['goal']} [green]pass[/green]"
    return f"{goal['goal']} " + ("[yellow]no[/yellow]" if goal["aim"] else "[red]FAIL[/red]")


def number(value: float, unit: str, scale: float | None = None) -> str:
    """Format a value; ``scale`` is the one that chose the unit beside it."""
    if unit == "s":
        small = unit_of(value if scale is None else scale, unit)
        return f"{value * {'s': 1, 'ms': 1e3, 'µs': 1e6}[small]:.3g}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def unit_of(value: float, unit: str) -> str:
    """Return the unit in which a value is best read."""
    if unit == "calls/s":
        return "/s"
    if unit != "s":
        return unit
    return "s" if value >= 0.5 else "ms" if value >= 0.5e-3 else "µs"


def latency_table(rounds: Sequence[Round]) -> Table | None:
    """The percentiles at fixed rates, of each peer's first round that has them."""
    found = {}
    for measured in rounds:
        if "latency" in measured.results:
            found.setdefault(measured.peer, measured.results["latency"]["details"])
    if not found:
        return None
    table = Table(title="latency at a share of a peer's own highest rate, ms")
    for header in ("", "share", "calls/s", "p50", "p99", "p99.9"):
        table.add_column(header, justify="right" if header else "left")
    for peer, details in found.items():
        for share in (10, 50, 90):
            at = details[f"at_{share}_percent"]
            percentiles = [f"{at[key] / 1e3:.2f}" for key in ("p50_us", "p99_us", "p999_us")]
            table.add_row(peer, f"{share} %", f"{at['rate']:,.0f}", *percentiles)
    return table
