"""Scheduling strategies and label selectors: what is refused where it is written, what is meant."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from celery_actors.control import ANYWHERE, LabelRule, Target
from celery_actors.options import ActorOptions, TaskOptions
from celery_actors.scheduling import label_rules, target_of
from celery_actors.util.scheduling_strategies import (
    DoesNotExist,
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
    PlacementGroupSchedulingStrategy,
)
from celery_actors.worker.labels import node_labels
from celery_actors.worker.resources import GPU

NODE = "0123456789abcdef" * 2


@pytest.mark.parametrize("kind", [ActorOptions, TaskOptions])
def test_an_unknown_strategy_is_refused_with_the_choices(kind: Any) -> None:
    for name in ("DEFAULT", "SPREAD", None):
        kind(scheduling_strategy=name)
    with pytest.raises(ValueError, match=r"'spread' is not known; there are: 'DEFAULT', 'SPREAD'"):
        kind(scheduling_strategy="spread")
    with pytest.raises(TypeError, match=r"one of 'DEFAULT', 'SPREAD', NodeAffinity.*not 5"):
        kind(scheduling_strategy=5)
    with pytest.raises(TypeError, match="not <class"):
        kind(scheduling_strategy=NodeAffinitySchedulingStrategy)


@pytest.mark.parametrize("node_id", ["", "me", "abc", 7, None, b"ab"])
def test_what_is_no_node_id(node_id: Any) -> None:
    with pytest.raises(ValueError, match=r"no node id: .*celery_actors\.nodes\(\)"):
        NodeAffinitySchedulingStrategy(node_id, soft=False)


def test_spilling_needs_softness() -> None:
    with pytest.raises(ValueError, match="needs soft=True"):
        NodeAffinitySchedulingStrategy(NODE, soft=False, _spill_on_unavailable=True)


@pytest.mark.parametrize(
    ("strategy", "target"),
    [
        (None, ANYWHERE),
        ("DEFAULT", ANYWHERE),
        ("SPREAD", Target(spread=True)),
        (NodeAffinitySchedulingStrategy(NODE, soft=False), Target(NODE)),
        (NodeAffinitySchedulingStrategy(NODE, soft=True), Target(NODE, soft=True)),
        (
            NodeAffinitySchedulingStrategy(NODE, soft=True, _spill_on_unavailable=True),
            Target(NODE, soft=True, spill=True),
        ),
        (
            NodeLabelSchedulingStrategy(
                {"zone": In("a", "b"), "disk": Exists()},
                soft={"rack": NotIn("7"), "gpu": DoesNotExist()},
            ),
            Target(
                labels=(LabelRule("disk", "exists"), LabelRule("zone", "in", ("a", "b"))),
                preferred=(LabelRule("gpu", "!exists"), LabelRule("rack", "!in", ("7",))),
            ),
        ),
    ],
)
def test_what_a_strategy_means(strategy: Any, target: Target) -> None:
    assert target_of(strategy, None) == target
    assert target_of(pickle.loads(pickle.dumps(strategy)), None) == target
    rules = (LabelRule("a", "in", ("1",)),)
    assert target_of(strategy, {"a": "1"}).labels == rules + target.labels


@pytest.mark.parametrize(
    ("value", "operator", "values"),
    [
        ("a", "in", ("a",)),
        ("", "in", ("",)),
        ("!a", "!in", ("a",)),
        ("in(a)", "in", ("a",)),
        ("in(A-1.x, b_2)", "in", ("A-1.x", "b_2")),
        ("!in(a,b)", "!in", ("a", "b")),
        ("in", "in", ("in",)),
    ],
)
def test_what_a_label_selector_means(value: str, operator: Any, values: tuple[str, ...]) -> None:
    assert label_rules({"ray.io/some-key": value}) == (
        LabelRule("ray.io/some-key", operator, values),
    )


@pytest.mark.parametrize("kind", [ActorOptions, TaskOptions])
@pytest.mark.parametrize(
    ("selector", "error"),
    [
        ({"zone": "in()"}, ValueError),
        ({"zone": "in(a,)"}, ValueError),
        ({"zone": "in(a"}, ValueError),
        ({"zone": "!!a"}, ValueError),
        ({"zone": "a b"}, ValueError),
        ({"zone": "-a"}, ValueError),
        ({"zone": "in(a,!b)"}, ValueError),
        ({"zone": "a" * 64}, ValueError),
        ({"": "a"}, ValueError),
        ({"a b": "a"}, ValueError),
        ({"zone": 5}, TypeError),
        ({5: "zone"}, TypeError),
        ("zone", TypeError),
    ],
)
def test_what_is_no_label_selector(kind: Any, selector: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="label"):
        kind(label_selector=selector)


def test_label_strategies_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="both empty"):
        NodeLabelSchedulingStrategy({}, soft={})
    with pytest.raises(ValueError, match="goes with In, NotIn"):
        NodeLabelSchedulingStrategy({"zone": "a"})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="hard must be a dict"):
        NodeLabelSchedulingStrategy(In("a"))  # type: ignore[arg-type]
    for operator in (In, NotIn):
        with pytest.raises(ValueError, match="one or more strings"):
            operator()
        with pytest.raises(ValueError, match="one or more strings"):
            operator("a", 5)  # type: ignore[arg-type]


def test_a_group_strategy_keeps_what_it_was_given() -> None:
    strategy = PlacementGroupSchedulingStrategy(None)
    assert strategy.placement_group_bundle_index == -1
    assert strategy.placement_group_capture_child_tasks is None


def test_the_labels_that_every_node_has() -> None:
    assert node_labels(NODE, [], {"zone": "a"}) == {"zone": "a", "ray.io/node-id": NODE}
    assert node_labels(NODE, [], {"ray.io/node-id": "mine"}) == {"ray.io/node-id": NODE}
    for name, model in (
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("NVIDIA A100-PCIE-40GB", "A100"),
    ):
        labels = node_labels(NODE, [GPU(0), GPU(1, name=name)], {})
        assert labels["ray.io/accelerator-type"] == model
    declared = {"ray.io/accelerator-type": "mine"}
    assert (
        node_labels(NODE, [GPU(1, name="NVIDIA H100 80GB")], declared).items() >= declared.items()
    )
