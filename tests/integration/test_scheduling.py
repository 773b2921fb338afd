"""Where actors and tasks run by their scheduling strategies: three nodes, all on this machine."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixture_types import StartNode
from waiting import record_of, wait_until, wait_until_alive

import celery_actors as ray
from celery_actors.exceptions import (
    ActorUnschedulableError,
    InsufficientResources,
    TaskUnschedulableError,
)
from celery_actors.session import SessionInfo
from celery_actors.util.scheduling_strategies import (
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
)
from celery_actors.worker.context import current_assignment

NODES: dict[str, dict[str, Any]] = {
    "a": {"num_cpus": 2, "num_gpus": 2, "labels": {"zone": "x", "disk": "ssd"}},
    "b": {"num_cpus": 2, "labels": {"zone": "y"}},
    "c": {"num_cpus": 2},
}


@pytest.fixture(scope="module", autouse=True)
def three_nodes(driver: SessionInfo, start_node: StartNode) -> None:
    for name, options in NODES.items():
        start_node(name, **options)
    wait_until(lambda: len(ray.nodes()) == 3, "three nodes")


@pytest.fixture(autouse=True)
def all_free() -> Iterator[None]:
    yield
    gc.collect()
    wait_until(
        lambda: ray.available_resources() == ray.cluster_resources(), "all resources given back"
    )


@ray.remote
class Where:
    def node(self) -> str | None:
        return current_assignment().node_id


@ray.remote
def where() -> str | None:
    return current_assignment().node_id


@ray.remote
def where_together(begun: str, gate: str) -> str | None:
    Path(begun).touch()
    wait_until(Path(gate).exists, "the gate")
    return current_assignment().node_id


def id_of(name: str) -> str:
    return next(node["NodeID"] for node in ray.nodes() if node["NodeName"] == name)


def name_of(node_id: str | None) -> str:
    return next(node["NodeName"] for node in ray.nodes() if node["NodeID"] == node_id)


def test_nodes_have_the_labels_that_they_were_given_and_their_id() -> None:
    for node in ray.nodes():
        given = NODES[node["NodeName"]].get("labels", {})
        assert node["Labels"] == {**given, "ray.io/node-id": node["NodeID"]}


def test_affinity_to_a_node() -> None:
    for name in "abc":
        strategy = NodeAffinitySchedulingStrategy(id_of(name), soft=False)
        actor = Where.options(scheduling_strategy=strategy).remote()
        task = where.options(scheduling_strategy=strategy).remote()
        assert [name_of(n) for n in ray.get([actor.node.remote(), task])] == [name, name]


def test_affinity_waits_for_its_node_soft_or_not() -> None:
    for soft in (False, True):
        strategy = NodeAffinitySchedulingStrategy(id_of("b"), soft=soft)
        kind = Where.options(num_cpus=2, scheduling_strategy=strategy)
        first, second = kind.remote(), kind.remote()
        wait_until_alive(first)
        assert record_of(second).state == "PENDING"
        ray.kill(first)
        assert name_of(ray.get(second.node.remote())) == "b"
        ray.kill(second)


def test_affinity_to_a_node_that_is_not_there() -> None:
    hard = NodeAffinitySchedulingStrategy("ab" * 28, soft=False)
    with pytest.raises(ActorUnschedulableError, match="the actor Where asks for the node 'abab"):
        Where.options(scheduling_strategy=hard).remote()
    with pytest.raises(TaskUnschedulableError, match="the cluster has only: a, b, c"):
        where.options(scheduling_strategy=hard).remote()
    soft = NodeAffinitySchedulingStrategy("ab" * 28, soft=True)
    actor = Where.options(scheduling_strategy=soft).remote()
    assert name_of(ray.get(actor.node.remote())) in NODES
    too_small = NodeAffinitySchedulingStrategy(id_of("b"), soft=False)
    with pytest.raises(ActorUnschedulableError, match=r"asks for 1 GPU; .* has 0"):
        Where.options(num_gpus=1, scheduling_strategy=too_small).remote()
    elsewhere = NodeAffinitySchedulingStrategy(id_of("b"), soft=True)
    actor = Where.options(num_gpus=1, scheduling_strategy=elsewhere).remote()
    assert name_of(ray.get(actor.node.remote())) == "a"


def test_spread_uses_all_nodes(tmp_path: Path) -> None:
    actors = [Where.options(scheduling_strategy="SPREAD").remote() for _ in range(6)]
    nodes = ray.get([actor.node.remote() for actor in actors])
    assert sorted(map(name_of, nodes)) == list("aabbcc")
    gate = tmp_path / "gate"
    spread = where_together.options(scheduling_strategy="SPREAD")
    tasks = [spread.remote(str(tmp_path / str(number)), str(gate)) for number in range(6)]
    # No executor has a second task, however late another one starts.
    wait_until(lambda: len(list(tmp_path.iterdir())) == 6, "all six tasks to run")
    gate.touch()
    assert sorted(map(name_of, ray.get(tasks))) == list("aabbcc")


def test_labels_of_actors_and_tasks() -> None:
    cases: list[tuple[dict[str, Any], set[str]]] = [
        ({"label_selector": {"zone": "y"}}, {"b"}),
        ({"label_selector": {"zone": "!y", "disk": "ssd"}}, {"a"}),
        ({"label_selector": {"zone": "!in(x,y)"}}, {"c"}),
        ({"label_selector": {"ray.io/node-id": id_of("c")}}, {"c"}),
        ({"scheduling_strategy": NodeLabelSchedulingStrategy({"disk": Exists()})}, {"a"}),
        (
            {
                "scheduling_strategy": NodeLabelSchedulingStrategy(
                    {"disk": NotIn("ssd")}, soft={"zone": In("y")}
                )
            },
            {"b"},
        ),
        ({"scheduling_strategy": "SPREAD", "label_selector": {"zone": "in(x,y)"}}, {"a", "b"}),
    ]
    for options, names in cases:
        actors = [Where.options(**options).remote() for _ in range(2)]
        task = where.options(**options).remote()
        nodes = ray.get([*(actor.node.remote() for actor in actors), task])
        assert set(map(name_of, nodes)) <= names, options
    with pytest.raises(InsufficientResources, match="labels zone=z"):
        Where.options(label_selector={"zone": "z"}).remote()


def test_the_loss_of_the_one_node_for_it(start_node: StartNode) -> None:
    late = start_node("late", num_cpus=1)
    wait_until(lambda: len(ray.nodes()) == 4, "the fourth node")
    strategy = NodeAffinitySchedulingStrategy(id_of("late"), soft=False)
    running = Where.options(num_cpus=1, scheduling_strategy=strategy).remote()
    wait_until_alive(running)
    waiting = Where.options(num_cpus=1, scheduling_strategy=strategy).remote()
    call = waiting.node.remote()
    tasks = [where.options(scheduling_strategy=strategy).remote() for _ in range(3)]
    assert record_of(waiting).state == "PENDING"
    late.terminate()
    with pytest.raises(ray.exceptions.ActorDiedError, match="late was shut down"):
        ray.get(call, timeout=60)
    for task in tasks:
        with pytest.raises(TaskUnschedulableError, match="asks for the node"):
            ray.get(task, timeout=60)
