"""Whoever becomes the parent of orphans reaps them."""

from __future__ import annotations

import os
import signal

import psutil
from test_descendants import Starter, server_of
from waiting import wait_until

import celery_actors as ray
from celery_actors.local import PrivateCluster


def test_the_guardian_reaps_what_is_orphaned(mortal: PrivateCluster) -> None:
    actor = ray.remote(Starter).remote()
    server = server_of(ray.get(actor.pid.remote()))
    _, *started = ray.get(actor.start.remote(), timeout=60)
    os.kill(server, signal.SIGKILL)  # so that the guardian becomes the parent
    wait_until(lambda: not any(map(psutil.pid_exists, started)), "orphans killed and reaped")
    guardian = psutil.Process(mortal.guardian_pid)
    left = [child for child in guardian.children() if child.status() == psutil.STATUS_ZOMBIE]
    assert not left
