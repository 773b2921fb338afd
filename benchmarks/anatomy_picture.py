"""The picture of a call: its way as a bar along time, and its CPU by process; plain SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from anatomy_stamps import ACTOR, BROKER, DRIVER, STORE, Anatomy
from chart import COLOURS

WIDTH = 1040
EDGE = 16
BAR = 34
LINE = 13
COLOUR_OF = {
    DRIVER: COLOURS["ours"],
    BROKER: COLOURS["xoscar"],
    ACTOR: COLOURS["ray"],
    STORE: COLOURS["dask"],
}
REST = COLOURS["celery"]


@dataclass(frozen=True)
class Segment:
    """A piece of a bar, with the lines of its label."""

    length: float
    colour: str
    words: Sequence[str]


def draw(anatomy: Anatomy, cpu: Mapping[str, float], rate: float, machine: str) -> str:
    """Return the picture of a synchronous call, and of what a pipelined one costs.

    :param cpu: microseconds a pipelined call, by process.
    :param rate: pipelined calls a second.
    """
    way = [
        Segment(
            spread.median,
            COLOUR_OF[anatomy.where[stage]],
            [*stage.replace(", ", ",\n").split("\n"), f"{spread.median:.0f} µs"],
        )
        for stage, spread in anatomy.stages.items()
    ]
    work = [
        Segment(used, COLOUR_OF.get(name, REST), [name, f"{used:.1f} µs"])
        for name, used in cpu.items()
        if used >= 0.05
    ]
    total = sum(segment.length for segment in way)
    parts = [
        _text(EDGE, 26, f"A synchronous call: {total:.0f} µs, stage by stage", size=15),
        _text(
            EDGE,
            44,
            f"the median of each stage; of the whole call it is {anatomy.total.median:.0f} µs; "
            f"{machine}",
            "#555555",
        ),
        *_key(62),
        *_bar(way, 92, step=_step_of(total)),
        _text(
            EDGE,
            246,
            f"CPU of a call while 1,000 are under way: {sum(cpu.values()):.0f} µs, in "
            f"processes that run side by side ({rate:,.0f} calls a second)",
            size=15,
        ),
        *_bar(work, 278, step=_step_of(sum(cpu.values()))),
    ]
    height = 378
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="11">\n'
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _key(y: int) -> list[str]:
    parts, x = [], EDGE
    for name, colour in COLOUR_OF.items():
        parts.append(f'<rect x="{x}" y="{y - 9}" width="11" height="11" fill="{colour}"/>')
        parts.append(_text(x + 16, y, name))
        x += 34 + 7 * len(name)
    return parts


def _bar(segments: Sequence[Segment], y: int, step: float) -> list[str]:
    """One bar, its axis above it, its labels side by side below it with a line to each."""
    room = WIDTH - 2 * EDGE
    total = sum(segment.length for segment in segments)
    parts = []
    for tick in range(int(total / step) + 1):
        x = EDGE + room * tick * step / total
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 5}" y2="{y + BAR}" stroke="#bbbbbb"/>'
        )
        parts.append(_text(x, y - 8, f"{tick * step:g}", "#555555", anchor="middle"))
    middles, left = [], float(EDGE)
    for segment in segments:
        width = room * segment.length / total
        parts.append(
            f'<rect x="{left:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" '
            f'fill="{segment.colour}" stroke="#ffffff" stroke-width="1"/>'
        )
        middles.append(left + width / 2)
        left += width
    labels = _spread_out(middles, [_width(segment.words) for segment in segments])
    top = y + BAR + 26
    for segment, middle, x in zip(segments, middles, labels, strict=True):
        parts.append(
            f'<polyline points="{middle:.1f},{y + BAR} {middle:.1f},{y + BAR + 4} '
            f'{x:.1f},{top - 12}" fill="none" stroke="{segment.colour}"/>'
        )
        for number, words in enumerate(segment.words):
            last = number == len(segment.words) - 1
            parts.append(_text(x, top + number * LINE, words, anchor="middle", bold=last))
    return parts


def _width(words: Sequence[str]) -> float:
    return 12 + 6.2 * max(map(len, words))


def _spread_out(middles: Sequence[float], widths: Sequence[float]) -> list[float]:
    """Return places for labels as near to their pieces as they fit, in the same order."""
    places: list[float] = []
    edge = 4.0
    for middle, width in zip(middles, widths, strict=True):
        place = max(middle, edge + width / 2)
        places.append(place)
        edge = place + width / 2
    edge = WIDTH - 4.0
    for index in reversed(range(len(places))):
        half = widths[index] / 2
        places[index] = min(places[index], edge - half)
        edge = places[index] - half
    return places


def _step_of(total: float) -> float:
    """A round distance of the axis's ticks: five to twelve of them."""
    return next((s for s in (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0) if total / s <= 12), 200.0)


def _text(
    x: float,
    y: float,
    words: str,
    colour: str = "#111111",
    *,
    size: int | None = None,
    anchor: str | None = None,
    bold: bool = False,
) -> str:
    style = f' font-size="{size}"' if size else ""
    style += f' text-anchor="{anchor}"' if anchor else ""
    style += ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y}" fill="{colour}"{style}>{escape(words)}</text>'
