"""Small line charts, a row of them for each series; plain SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 1040
HEIGHT = 240
TOP = 50
HEADING = 22
COLUMNS = 3
LEFT = 62  # of a panel: room for the vertical axis's numbers
ABOVE = 22  # room for the panel's title; its lines' names come below
NAME = 11
BELOW = 34
NAMES_IN_A_ROW = 2
FEW_VALUES = 8
WIDE = 20.0  # values further apart than this get a logarithmic axis
COLOURS = (
    "#1b7f5c",
    "#3b6fb5",
    "#c2702e",
    "#8d5aa8",
    "#c9a400",
    "#8a8a8a",
    "#b5344f",
    "#2aa5a0",
)


@dataclass(frozen=True)
class Line:
    """A figure at several points; those are in order."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Panel:
    """One chart: lines of one unit.

    :ivar across: what the horizontal axis is.
    :ivar powers: whether that axis is logarithmic; 0 then has a place of its own before the rest.
    """

    title: str
    across: str
    lines: tuple[Line, ...]
    powers: bool = True


@dataclass(frozen=True)
class Axis:
    """Where a value lies between 0 and 1, and what is written beside the axis."""

    place: Callable[[float], float]
    ticks: tuple[float, ...]


def line_charts(rows: Sequence[tuple[str, Sequence[Panel]]], title: str, subtitle: str) -> str:
    """Return the picture of all rows; a vertical axis begins at 0 unless it is logarithmic."""
    parts: list[str] = []
    y = TOP
    room = WIDTH / COLUMNS
    for heading, panels in rows:
        parts.append(f'<text x="12" y="{y + 14}" font-size="13">{escape(heading)}</text>')
        for index, panel in enumerate(panels):
            column, line = index % COLUMNS, index // COLUMNS
            parts += _panel(panel, column * room, y + HEADING + line * HEIGHT, room)
        y += HEADING + math.ceil(len(panels) / COLUMNS) * HEIGHT
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" '
        f'viewBox="0 0 {WIDTH} {y}" font-family="sans-serif" font-size="10">\n'
        f'<rect width="{WIDTH}" height="{y}" fill="#ffffff"/>\n'
        f'<text x="12" y="20" font-size="15">{escape(title)}</text>\n'
        f'<text x="12" y="36" fill="#555555">{escape(subtitle)}</text>\n{body}\n</svg>\n'
    )


def _panel(panel: Panel, left: float, top: float, width: float) -> list[str]:
    across = sorted({at for line in panel.lines for at, _ in line.points})
    values = [value for line in panel.lines for _, value in line.points]
    if not values:
        return []
    horizontal = _powers_of(across) if panel.powers else _even(min(across), max(across))
    vertical = _vertical(values)
    x0, x1 = left + LEFT, left + width - 18
    names = NAME * math.ceil(len(panel.lines) / NAMES_IN_A_ROW)
    y0, y1 = top + HEIGHT - BELOW, top + ABOVE + names

    def x(at: float) -> float:
        return x0 + horizontal.place(at) * (x1 - x0)

    def y(value: float) -> float:
        return y0 + vertical.place(value) * (y1 - y0)

    parts = [f'<text x="{x0:.0f}" y="{top + 12:.0f}" font-size="11">{escape(panel.title)}</text>']
    for tick in vertical.ticks:
        parts.append(
            f'<line x1="{x0:.1f}" x2="{x1:.1f}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" '
            f'stroke="#e2e2e2"/>'
            f'<text x="{x0 - 5:.1f}" y="{y(tick) + 3:.1f}" text-anchor="end" fill="#555555">'
            f"{few_letters(tick)}</text>"
        )
    for tick in horizontal.ticks:
        parts.append(
            f'<text x="{x(tick):.1f}" y="{y0 + 13:.1f}" text-anchor="middle" fill="#555555">'
            f"{few_letters(tick)}</text>"
        )
    parts.append(
        f'<text x="{(x0 + x1) / 2:.1f}" y="{y0 + 26:.1f}" text-anchor="middle" fill="#555555">'
        f"{escape(panel.across)}</text>"
    )
    for index, line in enumerate(panel.lines):
        colour = COLOURS[index % len(COLOURS)]
        column, row = index % NAMES_IN_A_ROW, index // NAMES_IN_A_ROW
        names_at = x0 + column * (x1 - x0) / NAMES_IN_A_ROW
        path = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in line.points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
            f'<text x="{names_at:.1f}" y="{top + 24 + row * NAME:.1f}" fill="{colour}">'
            f"{escape(line.name)}</text>"
        )
        if len(line.points) <= FEW_VALUES:  # measured points, not a curve of samples
            parts += [
                f'<circle cx="{x(at):.1f}" cy="{y(value):.1f}" r="2.5" fill="{colour}"/>'
                for at, value in line.points
            ]
    return parts


def _powers_of(values: Sequence[float]) -> Axis:
    """A logarithmic axis with a tick at each value; 0 is a power of ten below the lowest."""
    lowest = min((value for value in values if value > 0), default=1.0)

    def exponent(value: float) -> float:
        return math.log10(value) if value > 0 else math.log10(lowest) - 1

    first, last = exponent(min(values)), exponent(max(values))
    span = (last - first) or 1.0
    return Axis(lambda value: (exponent(value) - first) / span, tuple(values))


def _vertical(values: Sequence[float]) -> Axis:
    lowest, highest = min(values), max(values)
    if lowest > 0 and highest / lowest > WIDE:
        first, last = math.floor(math.log10(lowest)), math.ceil(math.log10(highest))
        span = last - first
        ticks = tuple(10.0**power for power in range(first, last + 1))
        return Axis(lambda value: (math.log10(value) - first) / span, ticks)
    return _even(min(0.0, lowest), highest)


def _even(lowest: float, highest: float) -> Axis:
    """An axis whose ticks are round numbers, of which the last is no less than the highest."""
    rough = (highest - lowest) / 4 or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(times * power for times in (1, 2, 5, 10) if times * power >= rough)
    first, last = math.floor(lowest / step), math.ceil(highest / step)
    span = ((last - first) or 1) * step
    ticks = tuple(number * step for number in range(first, first + round(span / step) + 1))
    return Axis(lambda value: (value - first * step) / span, ticks)


def few_letters(value: float) -> str:
    """Write a number in a few letters: 64k, 1M, 0.5."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:.3g}"
