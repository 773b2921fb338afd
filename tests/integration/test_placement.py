"""Where actors and tasks run: three nodes with GPUs and custom resources, all on this machine."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixture_types import RunScript, StartNode
from waiting import record_of, wait_for_state, wait_until, wait_until_alive

import celery_actors as ray
from celery_actors.exceptions import InsufficientResources
from celery_actors.session import SessionInfo

NODES = {
    "a": {"num_cpus": 2, "num_gpus": 2},
    "b": {"num_cpus": 2, "num_gpus": 4, "resources": {"disk": 2}},
    "c": {"num_cpus": 1, "num_gpus": 0, "resources": {"licence": 0.5}},
}
# The node worker may use only these, so these are what its actors get.
VISIBLE_AT_B = "4,5,6,7"


@pytest.fixture(scope="module", autouse=True)
def three_nodes(driver: SessionInfo, start_node: StartNode) -> None:
    for name, options in NODES.items():
        env = {"CUDA_VISIBLE_DEVICES": VISIBLE_AT_B} if name == "b" else None
        start_node(name, **options, env=env)
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
    """Says what it was given."""

    def __init__(self) -> None:
        self.at_start = (ray.get_gpu_ids(), os.environ["CUDA_VISIBLE_DEVICES"])

    def gpus(self) -> tuple[list[int], str]:
        return self.at_start

    def imported(self) -> str:
        import sees_its_gpus  # type: ignore[import-not-found]

        return str(sees_its_gpus.AT_IMPORT)


def node_of(actor: Any) -> str:
    record = wait_until_alive(actor)
    return next(node["NodeName"] for node in ray.nodes() if node["NodeID"] == record.node_id)


def test_the_cluster_says_what_it_has() -> None:
    total = ray.cluster_resources()
    assert {name: total[name] for name in ("CPU", "GPU", "disk", "licence")} == {
        "CPU": 5,
        "GPU": 6,
        "disk": 2,
        "licence": 0.5,
    }
    assert total["memory"] > 0
    by_name = {node["NodeName"]: node for node in ray.nodes()}
    assert set(by_name) == set(NODES)
    assert all(node["Alive"] for node in by_name.values())
    assert by_name["b"]["Resources"]["disk"] == 2
    assert "GPU" not in by_name["c"]["Resources"]


def test_more_gpus_than_any_node_has() -> None:
    with pytest.raises(
        InsufficientResources, match=r"not enough GPUs.*5 GPUs.*node has 4"
    ) as caught:
        Where.options(num_gpus=5).remote()
    assert "total 6" in str(caught.value)
    with pytest.raises(InsufficientResources, match="asks for 3 CPUs"):
        ray.remote(num_cpus=3)(lambda: 1).remote()
    with pytest.raises(InsufficientResources, match="licence"):
        Where.options(resources={"licence": 1}).remote()
    with pytest.raises(InsufficientResources, match="no_such"):
        Where.options(resources={"no_such": 0.001}).remote()
    with pytest.raises(InsufficientResources, match="no single node"):
        Where.options(num_gpus=1, resources={"licence": 0.5}).remote()


def test_a_custom_resource_names_the_node() -> None:
    assert node_of(Where.options(resources={"disk": 1}).remote()) == "b"
    assert node_of(Where.options(resources={"licence": 0.1}).remote()) == "c"


def test_what_is_held_is_not_available() -> None:
    actor = Where.options(num_gpus=3, num_cpus=1).remote()
    wait_until_alive(actor)
    free = ray.available_resources()
    assert (free["GPU"], free["CPU"]) == (3, 4)


def test_busy_gpus_are_waited_for_first_in_first_out() -> None:
    kind = Where.options(num_gpus=4)
    first, second, third = (kind.remote() for _ in range(3))
    ids = [record_of(actor).actor_id for actor in (first, second, third)]
    wait_until_alive(first)
    call = third.gpus.remote()
    assert [record_of(i).state for i in ids[1:]] == ["PENDING", "PENDING"]
    ray.kill(first)
    wait_for_state(ids[1], "ALIVE")
    assert record_of(ids[2]).state == "PENDING"
    assert ray.wait([call], timeout=0)[0] == []
    del second
    gc.collect()
    assert sorted(ray.get(call)[0]) == [4, 5, 6, 7]
    assert record_of(ids[1]).state == "DEAD"


def test_a_waiting_actor_that_is_killed_or_dropped_is_out_of_the_line() -> None:
    kind = Where.options(num_gpus=4)
    first, killed, dropped, last = (kind.remote() for _ in range(4))
    ids = [record_of(actor).actor_id for actor in (killed, dropped)]
    wait_until_alive(first)
    ray.kill(killed)
    del dropped
    gc.collect()
    wait_for_state(ids[0], "DEAD")
    del first
    gc.collect()
    assert len(ray.get(last.gpus.remote(), timeout=60)[0]) == 4


def test_no_two_actors_share_a_whole_gpu() -> None:
    actors = [Where.options(num_gpus=1).remote() for _ in range(6)]
    given: dict[str, list[int]] = {"a": [], "b": []}
    for actor in actors:
        ids, variable = ray.get(actor.gpus.remote())
        assert all(type(number) is int for number in ids)
        assert variable == ",".join(map(str, ids))
        given[node_of(actor)] += ids
    assert {name: sorted(ids) for name, ids in given.items()} == {
        "a": [0, 1],
        "b": [4, 5, 6, 7],
    }


def test_several_gpus() -> None:
    ids, variable = ray.get(Where.options(num_gpus=3).remote().gpus.remote())
    assert len(set(ids)) == 3
    assert set(ids) <= {4, 5, 6, 7}
    assert variable == ",".join(map(str, ids))


def test_fractions_share_a_gpu() -> None:
    kind = Where.options(num_gpus=0.25, resources={"disk": 0.1})
    actors = [kind.remote() for _ in range(5)]
    ids = [ray.get(actor.gpus.remote())[0] for actor in actors]
    assert all(len(each) == 1 for each in ids)
    counts = sorted(ids.count([gpu]) for gpu in (4, 5, 6, 7))
    assert counts == [0, 0, 1, 4]


def test_without_gpus_none_is_seen() -> None:
    @ray.remote
    def task() -> tuple[list[int], str]:
        return ray.get_gpu_ids(), os.environ["CUDA_VISIBLE_DEVICES"]

    assert ray.get(Where.remote().gpus.remote()) == ([], "")
    assert ray.get(task.remote()) == ([], "")
    ids, variable = ray.get(task.options(num_gpus=1).remote())
    assert variable == str(ids[0])
    assert ray.get_gpu_ids() == [], "the driver has none"


def test_the_variable_is_set_before_user_modules_are_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sees_its_gpus.py").write_text(
        "import os\nAT_IMPORT = os.environ['CUDA_VISIBLE_DEVICES']\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    kind = ray.remote(Where.__wrapped__)  # its paths are looked at anew
    for gpus in (2, 0):
        actor = kind.options(num_gpus=gpus).remote()
        ids, _ = ray.get(actor.gpus.remote())
        assert len(ids) == gpus
        assert ray.get(actor.imported.remote()) == ",".join(map(str, ids))


def test_a_node_that_joins_takes_what_waits(start_node: StartNode) -> None:
    kind = Where.options(num_gpus=2)
    actors = [kind.remote() for _ in range(4)]
    for actor in actors[:3]:
        wait_until_alive(actor)
    assert record_of(actors[3]).state == "PENDING"
    late = start_node("late", num_cpus=1, num_gpus=2)
    assert ray.get(actors[3].gpus.remote(), timeout=60)[0] == [0, 1]
    assert node_of(actors[3]) == "late"
    del actors, actor
    gc.collect()
    late.terminate()
    wait_until(lambda: len(ray.nodes()) == 3, "the end of the node")


LOGICAL = """
import celery_actors as ray
ray.init("local", num_gpus=8)

@ray.remote(num_gpus=1)
class Net:
    def ids(self):
        return ray.get_gpu_ids()

nets = [Net.remote() for _ in range(8)]
print(sorted(i for net in nets for i in ray.get(net.ids.remote())))
print(ray.cluster_resources()["GPU"], ray.available_resources()["GPU"])
try:
    Net.options(num_gpus=9).remote()
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_private_cluster_with_logical_gpus(run_script: RunScript) -> None:
    lines = run_script(LOGICAL).stdout.splitlines()
    assert lines[:2] == [str(list(range(8))), "8.0 0.0"]
    assert "not enough GPUs" in lines[2]
    assert "9 GPUs" in lines[2]
