"""kill -9 of the last node worker, which nobody starts again."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable

import pytest
from chaos_actors import Log
from faults import DETECTION, LEASE, wait_gone
from waiting import wait_until

import celery_actors as ray
from benchmarks.broker_node import queues_and_exchanges
from celery_actors.exceptions import ActorDiedError
from celery_actors.local import PrivateCluster
from celery_actors.session import SessionInfo

StartNode = Callable[..., "subprocess.Popen[bytes]"]


def node_names() -> set[str]:
    return {node["NodeName"] for node in ray.nodes()}


def test_kill_of_the_only_node_worker_for_good(
    driver: SessionInfo, start_node: StartNode, brokers: PrivateCluster
) -> None:
    """No node is left to clean up after it: the callers do."""
    only = start_node("last", num_cpus=2, resources={"last": 1})
    wait_until(lambda: node_names() == {"last"}, "the node, and no other")
    actor = Log.options(resources={"last": 1}).remote()
    pid = ray.get(actor.pid.remote())
    os.kill(only.pid, signal.SIGKILL)
    only.wait()
    wait_gone([pid], "the processes of a killed node worker")
    with pytest.raises(ActorDiedError, match="node was lost"):
        ray.get(actor.count.remote(), timeout=2 * LEASE + DETECTION)
    assert node_names() == set()

    def left() -> list[str]:
        queues, _ = queues_and_exchanges(brokers.session_dir)
        return [name for name in queues if name.startswith(("actor.", "node."))]

    wait_until(lambda: not left(), "no queue of the lost node")  # nobody waited for its last one
