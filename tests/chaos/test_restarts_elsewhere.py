"""Actors that may be begun again, when their node is lost or stopped."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chaos_actors import Log, PlainLog
from faults import DETECTION, LEASE, wait_gone
from waiting import record_of, wait_until

import celery_actors as ray
from celery_actors.client.current import require_process
from celery_actors.exceptions import ActorUnavailableError
from celery_actors.session import SessionInfo

StartNode = Callable[..., "subprocess.Popen[bytes]"]


def node_of(actor: Any) -> str:
    """The name of the node on which an actor runs."""
    node_id = record_of(actor).node_id
    return next((n["NodeName"] for n in ray.nodes() if n["NodeID"] == node_id), "")


def two_nodes(start_node: StartNode, *names: str) -> dict[str, subprocess.Popen[bytes]]:
    nodes = {name: start_node(name, num_cpus=2, resources={names[0]: 2}) for name in names}
    wait_until(lambda: set(names) <= {n["NodeName"] for n in ray.nodes()}, "both nodes")
    return nodes


def outcomes_of(refs: list[Any]) -> list[bool]:
    """Which calls ran; the others are said to have been interrupted."""
    outcomes = []
    for ref in refs:
        try:
            ray.get(ref, timeout=60)
            outcomes.append(True)
        except ActorUnavailableError:
            outcomes.append(False)
    return outcomes


def test_begun_again_on_another_node(
    driver: SessionInfo, start_node: StartNode, tmp_path: Path
) -> None:
    nodes = two_nodes(start_node, "a1", "a2")
    log = tmp_path / "log"
    log.touch()
    started, gate = tmp_path / "started", tmp_path / "gate"
    options = {"resources": {"a1": 1}, "max_restarts": 1}
    actor = Log.options(**options).remote()
    retried = Log.options(max_task_retries=1, **options).remote()
    # Both on one node, so that one fault meets both.
    while node_of(retried) != node_of(actor):
        retried = Log.options(max_task_retries=1, **options).remote()
        ray.get(retried.count.remote())
    was = node_of(actor)
    pids = ray.get([actor.pid.remote(), retried.pid.remote()])
    raises = actor.hold.remote(str(started), str(gate))
    again = retried.hold.remote(str(tmp_path / "started2"), str(gate))
    behind = [actor.append.remote(str(log), n) for n in range(200)]
    wait_until(started.exists, "the call to run")
    wait_until((tmp_path / "started2").exists, "the other call to run")
    os.kill(nodes[was].pid, signal.SIGKILL)
    nodes[was].wait()
    wait_gone(pids, "the processes of a killed node worker")
    gate.touch()
    with pytest.raises(ActorUnavailableError, match="was interrupted by the death"):
        ray.get(raises, timeout=LEASE + 2 * DETECTION)
    assert ray.get(again, timeout=LEASE + 2 * DETECTION) == str(gate)
    # With the node the record of what it had begun is lost: of the calls behind, the first may
    # count as begun too. The others run, once and in order.
    ran = [n for n, outcome in enumerate(outcomes_of(behind)) if outcome]
    assert ran == list(range(ran[0], 200))
    assert ran[0] < 64
    assert [int(line) for line in log.read_text().split()] == ran
    assert node_of(actor) == node_of(retried) != was
    assert record_of(actor).restarts == 1


def test_a_stopped_incarnation_changes_nothing(driver: SessionInfo, start_node: StartNode) -> None:
    nodes = two_nodes(start_node, "b1", "b2")
    actor: Any = (
        ray.remote(PlainLog)  # type: ignore[attr-defined]
        .options(resources={"b1": 1}, max_restarts=-1, max_task_retries=-1)
        .remote()
    )
    assert ray.get(actor.add.remote("me", 0)) == 0
    old = ray.get(actor.pid.remote())
    was = node_of(actor)
    nodes[was].send_signal(signal.SIGSTOP)
    os.kill(old, signal.SIGSTOP)
    try:
        refs = [actor.add.remote("me", n) for n in range(1, 101)]
        assert ray.get(refs, timeout=LEASE + 2 * DETECTION) == list(range(1, 101))
        assert node_of(actor) != was
    finally:
        os.kill(old, signal.SIGCONT)
        nodes[was].send_signal(signal.SIGCONT)
    wait_gone([old], "the old incarnation", 60)
    # What it took and could not commit left no trace in the new one.
    assert ray.get(actor.all.remote(), timeout=60) == [("me", n) for n in range(1, 101)]


def test_what_a_stopped_incarnation_had_begun_is_not_run_again(
    driver: SessionInfo, start_node: StartNode, tmp_path: Path
) -> None:
    nodes = two_nodes(start_node, "c1", "c2")
    log, gate = tmp_path / "log", tmp_path / "gate"
    actor = Log.options(resources={"c1": 1}, max_restarts=1).remote()
    old = ray.get(actor.pid.remote())
    was = node_of(actor)
    begun = actor.append_and_hold.remote(str(log), "begun", str(gate))
    behind = [actor.append.remote(str(log), n) for n in range(200)]
    wait_until(log.exists, "the call to run")
    # The broker keeps what the old incarnation has until it misses heartbeats.  With its lease
    # over before, the caller sends the calls again, and nothing says that they are redelivered.
    nodes[was].send_signal(signal.SIGSTOP)
    os.kill(old, signal.SIGSTOP)
    process = require_process()
    node_id = record_of(actor).node_id
    assert node_id is not None
    process.redis.zadd(f"{process.settings.prefix}nodes", {node_id: 1})
    try:
        with pytest.raises(ActorUnavailableError, match="was interrupted by the death"):
            ray.get(begun, timeout=LEASE + 4 * DETECTION)
        ran = [n for n, outcome in enumerate(outcomes_of(behind)) if outcome]
        assert ran == list(range(ran[0], 200))
        assert ran[0] < 64
        assert log.read_text().split() == ["begun", *map(str, ran)]
        new = actor.append.remote(str(log), "new")
        assert ray.get(new, timeout=60) is None, "what was never sent before is under no suspicion"
    finally:
        os.kill(old, signal.SIGKILL)
        nodes[was].send_signal(signal.SIGCONT)


def test_with_groups_whatever_was_delivered_may_have_begun(
    driver: SessionInfo, start_node: StartNode, tmp_path: Path
) -> None:
    nodes = two_nodes(start_node, "d1", "d2")
    log, gate = tmp_path / "log", tmp_path / "gate"
    actor = Log.options(
        resources={"d1": 1}, max_restarts=1, concurrency_groups={"quick": 1}
    ).remote()
    pid = ray.get(actor.pid.remote())
    first = actor.hold.remote(str(tmp_path / "started"), str(gate))
    behind = [actor.add.remote("me", n) for n in range(150)]
    # It overtakes those behind the first, so that it is not among the first that come again.
    call = actor.append_and_hold.options(concurrency_group="quick")
    overtaking = call.remote(str(log), "begun", str(gate))
    wait_until(log.exists, "the overtaking call to run")
    was = node_of(actor)
    os.kill(nodes[was].pid, signal.SIGKILL)
    nodes[was].wait()
    wait_gone([pid], "the process of a killed node worker")
    gate.touch()
    for ref in (first, overtaking):
        with pytest.raises(ActorUnavailableError, match="was interrupted by the death"):
            ray.get(ref, timeout=LEASE + 2 * DETECTION)
    outcomes_of(behind)
    assert log.read_text().split() == ["begun"]
