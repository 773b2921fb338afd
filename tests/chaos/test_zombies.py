"""Whoever becomes the parent of orphans reaps them."""

from __future__ import annotations

import os
import signal

import psutil
from test_descendants import Starter, server_of
from waiting import wait_until

import celery_actors as ray
from celery_actors.local import PrivateCluster


def zombies(parent: psutil.Process) -> list[psutil.Process]:
    """Children that have ended and were not reaped."""
    return [child for child in parent.children() if child.status() == psutil.STATUS_ZOMBIE]


def test_the_guardian_reaps_what_is_orphaned(mortal: PrivateCluster) -> None:
    actor = ray.remote(Starter).remote()
    server = server_of(ray.get(actor.pid.remote()))
    _, *started = ray.get(actor.start.remote(), timeout=60)
    os.kill(server, signal.SIGKILL)  # so that the guardian becomes the parent
    wait_until(lambda: not any(map(psutil.pid_exists, started)), "orphans killed and reaped")
    guardian = psutil.Process(mortal.guardian_pid)
    # Others have ended with the fork server: it reaps them in its turn, too.
    wait_until(lambda: not zombies(guardian), "the guardian to have reaped all")
