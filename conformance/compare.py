"""What both implementations did, side by side: three numbers and the lists behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from conformance.case import Case

__all__ = ["Comparison", "Line", "compare"]

Results = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Line:
    """A case or program in one of the lists.

    :ivar why: what is better, or the argument for what is worse; empty: there is none.
    :ivar detail: how the check failed.
    """

    id: str
    promise: str
    why: str = ""
    detail: str = ""


@dataclass
class Comparison:
    """Every case in one list.

    :ivar agree: the same check holds on both.
    :ivar better: ours keeps a promise that Ray does not.
    :ivar worse: Ray keeps a promise that ours does not.
    :ivar neither: neither keeps it; there should be none.
    :ivar missing: not run on both.
    """

    agree: list[Line] = field(default_factory=list)
    better: list[Line] = field(default_factory=list)
    worse: list[Line] = field(default_factory=list)
    neither: list[Line] = field(default_factory=list)
    missing: list[Line] = field(default_factory=list)

    @property
    def accepted(self) -> bool:
        """Whether nothing is worse without an argument, and Ray kept what it documents."""
        return not self.neither and all(line.why for line in self.worse)

    def markdown(self, versions: Mapping[str, str]) -> str:
        """Return the report as a page."""
        head = ", ".join(f"{name} {version}" for name, version in versions.items())
        text = [
            "# Conformance",
            "",
            head,
            "",
            "| | number |",
            "|---|---|",
            f"| both agree | {len(self.agree)} |",
            f"| better here, on purpose | {len(self.better)} |",
            f"| worse here | {len(self.worse)} |",
        ]
        if self.neither:
            text.append(f"| neither keeps it | {len(self.neither)} |")
        if self.missing:
            text.append(f"| not run on both | {len(self.missing)} |")
        for title, lines in (
            ("Better here, on purpose", self.better),
            ("Worse here", self.worse),
            ("Neither keeps it", self.neither),
        ):
            text += ["", f"## {title}", ""]
            text += [_item(line) for line in lines] or ["None."]
        return "\n".join(text) + "\n"


def _item(line: Line) -> str:
    why = f" {line.why}" if line.why else ""
    return f"* `{line.id}`: {line.promise}.{why}"


def compare(
    cases: Sequence[Case], programs: Sequence[str], ray: Results, ours: Results
) -> Comparison:
    """Sort the cases and programs into the lists."""
    found = Comparison()
    for one in cases:
        _sort(found, one, ray.get(one.id), ours.get(one.id))
    for name in programs:
        line = Case("programs", name, f"The program {name} runs on both, but for its import", _none)
        _sort(found, line, ray.get(line.id), ours.get(line.id))
    return found


def _none(_ray: object) -> None:
    """A program is its own check."""


def _sort(
    found: Comparison, one: Case, ray: Mapping[str, Any] | None, ours: Mapping[str, Any] | None
) -> None:
    if ray is None or ours is None:
        found.missing.append(Line(one.id, one.promise))
        return
    on_ray, on_ours = ray["outcome"] == "pass", ours["outcome"] == "pass"
    detail = str(ours["detail"])
    if one.stronger is not None and "stronger" in ours:
        on_ours = ours["stronger"]["outcome"] == "pass"
        detail = str(ours["stronger"]["detail"])
        if on_ours and ray.get("stronger", {}).get("outcome") != "pass":
            found.better.append(Line(one.id, one.promise, one.better or ""))
            return
    if on_ray and on_ours:
        found.agree.append(Line(one.id, one.promise))
    elif on_ours and one.deviates:
        found.better.append(Line(one.id, one.promise, f"Ray {one.deviates}."))
    elif on_ray:
        found.worse.append(Line(one.id, one.promise, one.worse or "", detail))
    else:
        how = f"Ray: {ray['detail']}" if not on_ray else ""
        found.neither.append(Line(one.id, one.promise, "", f"{how}\nours: {detail}"))
