"""The runner of scripts: reloading, repetition, several at once; and who may touch what."""

from __future__ import annotations

import ast
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

import celery_actors.control
from celery_actors.control import Control, NodeSpec
from celery_actors.control.scripts import Scripts, _load

from .cluster import ONE, Cluster

PACKAGE = Path(celery_actors.control.__file__).parent


def test_scripts_are_sent_again_when_redis_has_forgotten_them(
    cluster: Cluster, client: redis.Redis
) -> None:
    node = cluster.node("n1", CPU=1)
    client.script_flush()
    assert cluster.control.renew_node(node, 60)
    assert client.script_exists(_load("renew_node")[1]) == [True]


def test_a_client_that_decodes_is_refused(redis_server: redis.Redis) -> None:
    path = redis_server.connection_pool.connection_kwargs["path"]
    with pytest.raises(ValueError, match="returns bytes"):
        Control(redis.Redis(unix_socket_path=path, decode_responses=True))


def test_prefixes_keep_clusters_apart(cluster: Cluster, client: redis.Redis) -> None:
    other = Control(client, prefix="other:")
    cluster.node("n1", CPU=1)
    assert other.nodes() == []
    other.register_node(NodeSpec("f" * 32, "n1", "host", 1, {}), 60)
    assert len(cluster.control.nodes()) == 1
    assert all(key.startswith(("ca:", "other:")) for key in cluster.all_keys())


def test_running_a_script_twice_does_no_more_than_once(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As redis-py does when a connection is lost before the answer came."""
    run = Scripts.run

    def twice(self: Scripts, name: str, *arguments: str | bytes | int) -> object:
        first = run(self, name, *arguments)
        state = client_state(client)
        second = run(self, name, *arguments)
        assert client_state(client) == state, name
        answers_yes = {"begin", "alive", "failed", "hold", "move_hold", "release_hold"}
        if name in answers_yes or name in {"create", "renew_caller", "register_caller"}:
            assert first == second, name
        return first

    monkeypatch.setattr(Scripts, "run", twice)
    cluster = Cluster(Control(client), client)
    control = cluster.control
    node = cluster.node("n1", gpus=(0, 1), CPU=2)
    caller = cluster.caller(node)
    actors = [cluster.actor(CPU=1, GPU=0.5) for _ in range(4)]
    running = cluster.run(actors[0])
    failing = cluster.run(actors[1])
    control.block(running.actor_id, running.incarnation)
    control.unblock(running.actor_id, running.incarnation)
    control.hold(running.actor_id, f"{caller}/p")
    control.move_hold(running.actor_id, f"{caller}/p", f"{caller}/c1:{failing.actor_id}")
    lost = cluster.node("n2", robot=3)
    group = cluster.group({"robot": 1}, {"robot": 1}, name="group")
    control.failed(failing.actor_id, failing.incarnation, "raised", b"error")
    cluster.reap(failing)
    control.kill(actors[3], "killed")
    member = cluster.run(cluster.member(group, robot=1))
    control.remove_group(group, "removed")
    cluster.reap(member)
    again = cluster.group({"robot": 2})
    control.remove_node(lost, "lost")
    assert cluster.group_record(again).state == "RESCHEDULING"
    control.release_hold(running.actor_id, f"{cluster.driver}/p")
    control.end_caller(caller)
    control.settle_calls(caller, failing.actor_id)
    control.remove_node(node, "lost")
    control.end_caller(cluster.driver)
    control.forget_job(cluster.job)
    assert cluster.all_keys() == set()


def client_state(client: redis.Redis) -> dict[bytes, object]:
    """Everything stored, without times and how often a place for a group was looked for."""
    state: dict[bytes, object] = {}
    for key in client.scan_iter():
        kind = client.type(key)
        if kind == b"hash":
            fields = client.hgetall(key)
            passing = {b"since", b"began", b"at"}
            if key.startswith(b"ca:group:"):
                passing.add(b"attempts")
            state[key] = {f: v for f, v in fields.items() if f not in passing}
        elif kind == b"zset":
            state[key] = client.zrange(key, 0, -1)
        elif kind == b"set":
            state[key] = client.smembers(key)
        else:
            state[key] = client.get(key)
    return state


def at_once(count: int, work: Callable[[int], None]) -> None:
    """Run the work in threads that start together; errors come out."""
    barrier = threading.Barrier(count)

    def run(index: int) -> None:
        barrier.wait(60)
        work(index)

    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(run, index) for index in range(count)]:
            done.result(60)


def test_two_janitors_at_once_do_each_thing_once(cluster: Cluster) -> None:
    node = cluster.node("n1", CPU=50)
    cluster.node("n2", CPU=50)
    caller = cluster.caller(node)
    running = [cluster.run(cluster.actor(node="n1")).actor_id for _ in range(20)]
    held = [cluster.run(cluster.actor(caller=caller, node="n2")).actor_id for _ in range(20)]
    dead: list[str] = []
    stopping: list[str] = []

    def janitor(index: int) -> None:
        removal = cluster.control.remove_node(node, "lost")
        ended = cluster.control.end_caller(caller)
        dead.extend(removal.dead)
        stopping.extend(removal.stopping + ended.stopping)

    at_once(4, janitor)
    assert sorted(dead) == sorted(running)
    assert sorted(stopping) == sorted(held)


def test_two_nodes_at_once_claim_each_placement_once(cluster: Cluster) -> None:
    cluster.node("n1", CPU=100)
    placements = [cluster.placement(cluster.actor(CPU=1)) for _ in range(100)]
    begun: list[str] = []

    def claim(index: int) -> None:
        for placement in placements:
            if cluster.control.begin(
                placement.actor_id, placement.incarnation, placement.node_id, f"{index:016x}"
            ):
                begun.append(placement.actor_id)

    at_once(4, claim)
    assert len(begun) == len(set(begun)) == 100


def test_creations_from_many_threads_reserve_what_there_is(cluster: Cluster) -> None:
    cluster.node("n1", CPU=10)

    def create(index: int) -> None:
        for _ in range(5):
            cluster.actor(CPU=1)

    at_once(8, create)
    assert cluster.available("n1") == {"CPU": 0}
    assert cluster.control.waiting() == 30
    (node,) = cluster.control.nodes()
    assert node.available == {"CPU": node.resources["CPU"] - 10 * ONE}


def test_the_package_imports_only_the_standard_library_and_redis() -> None:
    allowed = {*sys.stdlib_module_names, "redis"}
    ours = ("celery_actors.control", "celery_actors.lua_parts")
    for path in [*PACKAGE.glob("*.py"), PACKAGE.parent / "lua_parts.py"]:
        for statement in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(statement, ast.Import):
                names = [alias.name for alias in statement.names]
            elif isinstance(statement, ast.ImportFrom):
                names = [statement.module or ""]
            for name in names:
                own = name.startswith(ours)
                assert own or name.split(".")[0] in allowed, f"{path.name} imports {name}"


def test_only_scripts_name_keys() -> None:
    """The rest of the project finds no key to touch, and Python here names none."""
    for path in PACKAGE.glob("*.py"):
        for statement in ast.walk(ast.parse(path.read_text())):
            if isinstance(statement, ast.Attribute) and isinstance(statement.value, ast.Attribute):
                touches = statement.value.attr == "_redis"
                assert not touches or statement.attr in {"evalsha", "eval"}, path.name
