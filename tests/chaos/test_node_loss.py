"""kill -9 of a node worker: its processes end with it, another node takes over."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from chaos_actors import Log
from faults import DETECTION, LEASE, wait_gone
from waiting import record_of, wait_until

import celery_actors as ray
from benchmarks.broker_node import queues_and_exchanges
from celery_actors.exceptions import ActorDiedError
from celery_actors.handle import actor_id_of
from celery_actors.ids import mailbox_name, node_queue_name
from celery_actors.local import PrivateCluster
from celery_actors.session import SessionInfo

StartNode = Callable[..., "subprocess.Popen[bytes]"]


def node_names() -> set[str]:
    return {node["NodeName"] for node in ray.nodes()}


def test_kill_of_a_node_worker(
    driver: SessionInfo, start_node: StartNode, brokers: PrivateCluster, tmp_path: Path
) -> None:
    first = start_node("first", num_cpus=2, resources={"first": 4})
    second = start_node("second", num_cpus=2, resources={"second": 4})
    wait_until(lambda: node_names() == {"first", "second"}, "both nodes")
    node_id = next(node["NodeID"] for node in ray.nodes() if node["NodeName"] == "first")
    lost = [Log.options(resources={"first": 1}).remote() for _ in range(2)]
    kept: Any = Log.options(resources={"second": 1}).remote()
    pids = ray.get([actor.pid.remote() for actor in lost])
    parents = {psutil.Process(pid).ppid() for pid in pids}
    started = tmp_path / "started"
    waiting = [
        lost[0].hold.remote(str(started), str(tmp_path / "gate")),
        lost[0].count.remote(),
    ]
    wait_until(started.exists, "the call to run")
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    wait_gone([*pids, *parents], "the processes of a killed node worker")
    waiting.append(lost[1].count.remote())
    for ref in waiting:
        with pytest.raises(ActorDiedError, match="node was lost"):
            ray.get(ref, timeout=LEASE + DETECTION)
    assert node_names() == {"second"}
    assert ray.get(kept.add.remote("me", 1), timeout=60) == 1
    placed = Log.options(num_cpus=1).remote()
    assert ray.get(placed.add.remote("me", 2), timeout=60) == 2
    with redis.Redis.from_url(brokers.address.result_backend) as client:
        wait_until(
            lambda: not [key for key in client.scan_iter() if node_id.encode() in key],
            "no record of the lost node",
            DETECTION,
        )
    mailboxes = {mailbox_name(actor_id_of(actor)) for actor in lost}

    def left() -> set[str]:
        queues, _ = queues_and_exchanges(brokers.session_dir)
        return {*queues} & {node_queue_name(node_id), *mailboxes}

    wait_until(lambda: not left(), "no queue of the lost node")  # they go behind the records
    del kept, placed
    second.terminate()
    second.wait(60)


def test_kill_of_the_only_node_worker(
    driver: SessionInfo, start_node: StartNode, tmp_path: Path
) -> None:
    only = start_node("only", num_cpus=2, resources={"only": 1})
    wait_until(lambda: node_names() == {"only"}, "the node, and no other")
    actor = Log.options(resources={"only": 1}).remote()
    pid = ray.get(actor.pid.remote())
    os.kill(only.pid, signal.SIGKILL)
    only.wait()
    wait_gone([pid], "the processes of a killed node worker")
    start_node("only", num_cpus=2, resources={"only": 1})
    with pytest.raises(ActorDiedError, match="node"):
        ray.get(actor.count.remote(), timeout=LEASE + DETECTION)
    wait_until(lambda: "only" in node_names(), "the new node")
    again = Log.options(resources={"only": 1}).remote()
    assert ray.get(again.add.remote("me", 1), timeout=60) == 1
    assert record_of(actor).state == "DEAD"


def test_a_node_worker_stopped_beyond_its_lease(driver: SessionInfo, start_node: StartNode) -> None:
    stopped = start_node("stopped", num_cpus=1, resources={"stopped": 1})
    start_node("other", num_cpus=1)
    wait_until(lambda: {"stopped", "other"} <= node_names(), "both nodes")
    actor = Log.options(resources={"stopped": 1}).remote()
    pid = ray.get(actor.pid.remote())
    stopped.send_signal(signal.SIGSTOP)
    try:
        wait_until(
            lambda: record_of(actor).state == "DEAD", "the actor to be dead", LEASE + DETECTION
        )
    finally:
        stopped.send_signal(signal.SIGCONT)
    with pytest.raises(ActorDiedError, match="node was lost"):
        ray.get(actor.count.remote(), timeout=60)
    wait_gone([pid], "the actors of a node that lost its lease")
    stopped.wait(60)
