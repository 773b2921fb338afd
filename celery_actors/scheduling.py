"""Scheduling strategies: where actors and tasks are to run, as their options say it.

Meanings follow Ray's ``ray.util.scheduling_strategies`` and its label selectors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from celery_actors.control import LabelRule, Target

__all__ = [
    "DoesNotExist",
    "Exists",
    "In",
    "NodeAffinitySchedulingStrategy",
    "NodeLabelSchedulingStrategy",
    "NotIn",
    "PlacementGroupSchedulingStrategy",
    "SchedulingStrategy",
    "check_strategy",
    "label_rules",
    "of_former_options",
    "target_of",
]

_NAMES = ("DEFAULT", "SPREAD")
_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_KEY = re.compile(rf"(?:[A-Za-z0-9][A-Za-z0-9.-]{{0,252}}/)?{_WORD}")
_ONE = re.compile(rf"(!?)({_WORD})?")
_SEVERAL = re.compile(rf"(!?)in\(({_WORD}(?:, ?{_WORD})*)\)")


class In:
    """A label that has one of the values: ``In("us", "eu")``."""

    def __init__(self, *values: str) -> None:
        self.values = _checked_values("In", values)

    def __repr__(self) -> str:
        return f"In{self.values!r}"


class NotIn:
    """A label that has none of the values, or is not there."""

    def __init__(self, *values: str) -> None:
        self.values = _checked_values("NotIn", values)

    def __repr__(self) -> str:
        return f"NotIn{self.values!r}"


class Exists:
    """A label that is there, whatever its value."""

    def __repr__(self) -> str:
        return "Exists()"


class DoesNotExist:
    """A label that is not there."""

    def __repr__(self) -> str:
        return "DoesNotExist()"


LabelOperator = In | NotIn | Exists | DoesNotExist


class NodeAffinitySchedulingStrategy:
    """Run on one node.

    :param node_id: the ``NodeID`` of an entry of :func:`celery_actors.nodes`.
    :param soft: run elsewhere if that node does not exist, or is too small.  On one that
        exists and is merely busy, the request waits.
    :param _spill_on_unavailable: with ``soft``, run elsewhere also when that node is busy.
    :raises ValueError: ``node_id`` is no id, or the options contradict each other.

    Example::

        here = celery_actors.nodes()[0]["NodeID"]
        Counter.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False)
        ).remote()
    """

    def __init__(self, node_id: str, soft: bool, _spill_on_unavailable: bool = False) -> None:
        if not isinstance(node_id, str) or not re.fullmatch(r"(?:[0-9a-f]{2})+", node_id):
            raise ValueError(
                f"{node_id!r} is no node id: ids are hexadecimal text, the NodeID of the entries "
                "of celery_actors.nodes()"
            )
        if _spill_on_unavailable and not soft:
            raise ValueError("_spill_on_unavailable needs soft=True: else only one node will do")
        self.node_id = node_id
        self.soft = soft
        self._spill_on_unavailable = _spill_on_unavailable

    def __repr__(self) -> str:
        return f"NodeAffinitySchedulingStrategy({self.node_id!r}, soft={self.soft})"


class NodeLabelSchedulingStrategy:
    """Run on a node with certain labels.

    :param hard: label to operator; all must hold.
    :param soft: label to operator; nodes for which all hold are taken first.
    :raises ValueError: both are empty, or something else than operators is in them.

    Example::

        NodeLabelSchedulingStrategy({"region": In("us")}, soft={"disk": Exists()})
    """

    def __init__(
        self,
        hard: Mapping[str, LabelOperator] | None,
        *,
        soft: Mapping[str, LabelOperator] | None = None,
    ) -> None:
        self.hard = _checked_operators("hard", hard)
        self.soft = _checked_operators("soft", soft)
        if not self.hard and not self.soft:
            raise ValueError("hard and soft of NodeLabelSchedulingStrategy are both empty")

    def __repr__(self) -> str:
        return f"NodeLabelSchedulingStrategy({self.hard!r}, soft={self.soft!r})"


class PlacementGroupSchedulingStrategy:
    """Run in a bundle of a placement group.

    :param placement_group: the group; ``None``: in none, whatever the parent runs in.
    :param placement_group_bundle_index: the bundle; -1: any with room.
    :param placement_group_capture_child_tasks: what it creates, without a strategy of its
        own, runs in the group as well; ``None``: as its parent.
    """

    def __init__(
        self,
        placement_group: Any,
        placement_group_bundle_index: int = -1,
        placement_group_capture_child_tasks: bool | None = None,
    ) -> None:
        self.placement_group = placement_group
        self.placement_group_bundle_index = placement_group_bundle_index
        self.placement_group_capture_child_tasks = placement_group_capture_child_tasks

    def __repr__(self) -> str:
        return (
            f"PlacementGroupSchedulingStrategy({self.placement_group!r}, "
            f"{self.placement_group_bundle_index})"
        )


SchedulingStrategy = (
    Literal["DEFAULT", "SPREAD"]
    | NodeAffinitySchedulingStrategy
    | NodeLabelSchedulingStrategy
    | PlacementGroupSchedulingStrategy
)

_KINDS = (
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)


def check_strategy(strategy: Any) -> None:
    """Check the option ``scheduling_strategy``.

    :raises ValueError: a word that names no strategy.
    :raises TypeError: something else than a strategy.
    """
    if strategy is None or isinstance(strategy, _KINDS):
        return
    choices = f"{', '.join(map(repr, _NAMES))}, {', '.join(kind.__name__ for kind in _KINDS)}"
    if not isinstance(strategy, str):
        raise TypeError(f"scheduling_strategy must be one of {choices}, not {strategy!r:.100}")
    if strategy not in _NAMES:
        raise ValueError(f"scheduling_strategy {strategy!r} is not known; there are: {choices}")


_GROUP_OPTIONS = (
    "placement_group",
    "placement_group_bundle_index",
    "placement_group_capture_child_tasks",
)


def of_former_options(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Turn Ray's former options for placement groups into a ``scheduling_strategy``.

    Before it had strategies, an actor or task was put into a group by ``placement_group=``,
    ``placement_group_bundle_index=`` and ``placement_group_capture_child_tasks=``.  Programs that
    still do so work.  ``accelerator_type=None``, Ray's default, asks for nothing.

    :raises ValueError: a strategy is given as well, or ``accelerator_type`` names one.
    """
    found = {name: options[name] for name in _GROUP_OPTIONS if name in options}
    if not found and "accelerator_type" not in options:
        return options
    rest = {name: value for name, value in options.items() if name not in found}
    kind = rest.pop("accelerator_type", None)
    if kind is not None:
        raise ValueError(
            f"accelerator_type={kind!r}: nodes don't tell their accelerators' types here; give the "
            "nodes a label or a resource for it, and ask for that by label_selector or resources"
        )
    group = found.get("placement_group", "default")
    if isinstance(group, str):
        if group != "default":
            raise TypeError(f"placement_group must be a PlacementGroup, not {group!r}")
        return rest
    if rest.get("scheduling_strategy") is not None:
        raise ValueError(
            "placement_group= and scheduling_strategy= say both where it runs: leave one out"
        )
    index = found.get("placement_group_bundle_index", -1)
    captures = found.get("placement_group_capture_child_tasks")
    strategy = PlacementGroupSchedulingStrategy(group, index, captures)
    return {**rest, "scheduling_strategy": strategy}


def label_rules(selector: Mapping[str, str] | None) -> tuple[LabelRule, ...]:
    """Return the rules of a label selector (Ray's syntax).

    Values: ``"a"``, ``"!a"``, ``"in(a,b)"``, ``"!in(a,b)"``.

    :raises TypeError: it is no mapping of text to text.
    :raises ValueError: a key or value is none of the above.
    """
    if selector is None:
        return ()
    if not isinstance(selector, Mapping):
        raise TypeError(f"label_selector must be a dict, not {selector!r:.100}")
    return tuple(_rule(key, value) for key, value in sorted(selector.items()))


def target_of(strategy: Any, selector: Mapping[str, str] | None) -> Target:
    """Return what a strategy and a label selector, both checked, say.

    Of a placement group this says nothing: who runs where decides (see
    :mod:`celery_actors.client.groups`).
    """
    labels = label_rules(selector)
    if strategy == "SPREAD":
        return Target(spread=True, labels=labels)
    if isinstance(strategy, NodeAffinitySchedulingStrategy):
        spill = strategy._spill_on_unavailable
        return Target(strategy.node_id, bool(strategy.soft), spill, labels=labels)
    if isinstance(strategy, NodeLabelSchedulingStrategy):
        return Target(labels=labels + _rules(strategy.hard), preferred=_rules(strategy.soft))
    return Target(labels=labels)


def _rule(key: Any, value: Any) -> LabelRule:
    if not isinstance(key, str) or not isinstance(value, str):
        raise TypeError(f"label_selector maps text to text, not {key!r} to {value!r}")
    if not _KEY.fullmatch(key):
        raise ValueError(
            f"label_selector: {key!r} cannot be a label: letters, digits, '-', '_' and '.', "
            "perhaps behind a prefix and '/'"
        )
    if several := _SEVERAL.fullmatch(value):
        values = tuple(one.strip() for one in several[2].split(","))
    elif one := _ONE.fullmatch(value):
        several, values = one, (one[2] or "",)
    else:
        raise ValueError(
            f"label_selector[{key!r}]: {value!r} is none of 'a', '!a', 'in(a,b)', '!in(a,b)' with "
            "values of at most 63 letters, digits, '-', '_' and '.'"
        )
    return LabelRule(key, "!in" if several[1] else "in", values)


def _checked_values(name: str, values: tuple[Any, ...]) -> tuple[str, ...]:
    if not values or not all(isinstance(value, str) for value in values):
        raise ValueError(f'{name}() takes one or more strings, as {name}("a", "b"), not {values!r}')
    return values


def _checked_operators(
    name: str, operators: Mapping[str, LabelOperator] | None
) -> dict[str, LabelOperator]:
    if operators is None:
        return {}
    if not isinstance(operators, Mapping):
        raise ValueError(f'{name} must be a dict, as {{"region": In("us")}}, not {operators!r}')
    for key, operator in operators.items():
        if not isinstance(key, str) or not isinstance(operator, LabelOperator):
            raise ValueError(
                f"{name}: a label is text and goes with In, NotIn, Exists or DoesNotExist, not "
                f"{key!r} with {operator!r}"
            )
    return dict(operators)


def _rules(operators: Mapping[str, LabelOperator]) -> tuple[LabelRule, ...]:
    found = []
    for key, operator in sorted(operators.items()):
        if isinstance(operator, In):
            found.append(LabelRule(key, "in", operator.values))
        elif isinstance(operator, NotIn):
            found.append(LabelRule(key, "!in", operator.values))
        else:
            found.append(LabelRule(key, "exists" if isinstance(operator, Exists) else "!exists"))
    return tuple(found)
