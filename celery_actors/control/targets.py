"""Targets: where a request may be placed, and the text by which equal requests are known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

LabelOperator = Literal["in", "!in", "exists", "!exists"]


@dataclass(frozen=True, slots=True)
class LabelRule:
    """What a node's label must be.

    A node that has no such label satisfies ``!in`` and ``!exists`` only.
    """

    key: str
    operator: LabelOperator
    values: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.operator in ("exists", "!exists"):
            return f"{self.operator.removesuffix('exists')}{self.key}"
        if len(self.values) == 1:
            return f"{self.key}{'!=' if self.operator == '!in' else '='}{self.values[0]}"
        return f"{self.key} {self.operator}({','.join(self.values)})"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request may be placed; without anything: on any node.

    :ivar node: a node's id or name.
    :ivar soft: elsewhere if that node is not there, or could never run it.
    :ivar spill: elsewhere also when that node is full.
    :ivar spread: where least is reserved, by number.
    :ivar labels: all of them hold for its node.
    :ivar preferred: nodes for which all of these hold are taken first.
    :ivar group: the id of a placement group whose bundles it is placed in.
    :ivar bundle: the only bundle for it; -1: any.
    """

    node: str | None = None
    soft: bool = False
    spill: bool = False
    spread: bool = False
    labels: tuple[LabelRule, ...] = ()
    preferred: tuple[LabelRule, ...] = ()
    group: str = ""
    bundle: int = -1

    @property
    def pinned(self) -> bool:
        """Whether one node alone will do."""
        return self.node is not None and not self.soft

    def fields(self) -> dict[str, Any]:
        """Return it as scripts read it; what says nothing is left out."""
        more = {
            "spill": self.spill,
            "labels": rule_fields(self.labels),
            "preferred": rule_fields(self.preferred),
            "group": self.group,
        }
        found: dict[str, Any] = {"node": self.node, "soft": self.soft, "spread": self.spread}
        found.update((name, value) for name, value in more.items() if value)
        if self.group:
            found["bundle"] = self.bundle
        return found


ANYWHERE = Target()
"""No wish at all."""


def shape_text(resources: Mapping[str, int], target: Target) -> str:
    """Return what is asked for and where, the same text for the same request."""
    want = {kind: str(amount) for kind, amount in resources.items() if amount}
    return compact({"want": want, **target.fields()})


def compact(fields: Mapping[str, Any]) -> str:
    """Return JSON in which equal fields are equal text."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


def rule_fields(rules: tuple[LabelRule, ...]) -> list[list[Any]]:
    """Return rules as scripts read them."""
    return [[rule.key, rule.operator, list(rule.values)] for rule in rules]
