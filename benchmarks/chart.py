"""The picture: each workload's bars, ours first, with the spread of the rounds; plain SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from peers import PeerSpec
from report import number, unit_of

WIDTH = 1040
LABEL = 250
BAR = 13
GAP = 16
TOP = 58
DECADES = 4.0  # the axis is logarithmic, and shows so many powers of ten below the best bar
COLOURS = {
    "ours": "#1b7f5c",
    "ray": "#3b6fb5",
    "xoscar": "#c2702e",
    "dask": "#8d5aa8",
    "celery": "#8a8a8a",
    "floor": "#c9a400",
}


def chart(workloads: dict[str, dict[str, Any]], peers: Sequence[PeerSpec], subtitle: str) -> str:
    """Return the picture of all workloads that any peer has a figure for.

    A bar's length is the logarithm of how good a figure is beside the best of its workload, so
    that longer is better everywhere; each decade has a line.
    """
    parts: list[str] = []
    y = TOP
    for compared in workloads.values():
        shown = [spec for spec in peers if spec.name in compared["peers"]]
        if shown:
            parts += _group(compared, shown, y)
            y += BAR * len(shown) + GAP
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" '
        f'viewBox="0 0 {WIDTH} {y}" font-family="sans-serif" font-size="11">\n'
        f'<rect width="{WIDTH}" height="{y}" fill="#ffffff"/>\n'
        f'<text x="12" y="20" font-size="15">How good, beside the best: each line is a factor '
        f"of ten, longer is better</text>\n"
        f'<text x="12" y="38" fill="#555555">{escape(subtitle)}</text>\n{body}\n</svg>\n'
    )


def _group(compared: dict[str, Any], shown: Sequence[PeerSpec], y: int) -> list[str]:
    better = compared["more_is_better"]
    figures = compared["peers"]

    def goodness(value: float) -> float:
        value = max(value, 1e-12)
        return value if better else 1 / value

    best = max(goodness(figures[spec.name]["median"]) for spec in shown)
    room = WIDTH - LABEL - 330

    def length(value: float) -> float:
        decades = math.log10(goodness(value) / best)
        return min(1.15, max(0.01, 1 + decades / DECADES)) * room

    height = BAR * len(shown)
    parts = [f'<text x="12" y="{y + 10}" fill="#111111">{escape(compared["title"])}</text>']
    for decade in range(int(DECADES) + 1):
        x = LABEL + room * decade / DECADES
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 3}" y2="{y + height}" stroke="#e2e2e2"/>'
        )
    for index, spec in enumerate(shown):
        its = figures[spec.name]
        top = y + index * BAR
        middle = top + BAR / 2 - 1
        end = length(its["median"])
        parts.append(
            f'<rect x="{LABEL}" y="{top}" width="{end:.1f}" height="{BAR - 2}" '
            f'fill="{COLOURS.get(spec.name, "#000000")}"/>'
        )
        edges = sorted((length(its["low"]), length(its["high"])))
        parts.append(
            f'<line x1="{LABEL + edges[0]:.1f}" x2="{LABEL + edges[1]:.1f}" '
            f'y1="{middle}" y2="{middle}" stroke="#111111" stroke-width="1.5"/>'
        )
        unit = compared["unit"]
        words = f"{spec.title} {number(its['median'], unit)} {unit_of(its['median'], unit)}"
        ratio = compared["ratios"].get(spec.name)
        if ratio is not None:
            words += f" (ours {ratio:.2f}x)"
        x = LABEL + max(end, edges[1]) + 6
        parts.append(f'<text x="{x:.1f}" y="{top + 9}" fill="#333333">{escape(words)}</text>')
    return parts
