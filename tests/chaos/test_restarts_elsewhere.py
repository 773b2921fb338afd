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
    wait_gone(pids, 5, "the processes of a killed node worker")
    gate.touch()
    with pytest.raises(ActorUnavailableError, match="was interrupted by the death"):
        ray.get(raises, timeout=LEASE + 2 * DETECTION)
    assert ray.get(again, timeout=LEASE + 2 * DETECTION) == str(gate)
    # With the node the record of what it had begun is lost: of the calls behind, the first may
    # count as begun too. The others run, once and in order.
    outcomes = []
    for ref in behind:
        try:
            ray.get(ref, timeout=20)
            outcomes.append(True)
        except ActorUnavailableError:
            outcomes.append(False)
    ran = [n for n, outcome in enumerate(outcomes) if outcome]
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
    wait_gone([old], 20, "the old incarnation")
    # What it took and could not commit left no trace in the new one.
    assert ray.get(actor.all.remote(), timeout=20) == [("me", n) for n in range(1, 101)]
