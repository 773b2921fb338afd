"""Calls by express while the broker stands still, and what is left in the mailbox behind them."""

from __future__ import annotations

import os
import signal

from chaos_actors import Log
from faults import broker_has_all, kill_server, unacknowledged, wait_restarted
from waiting import wait_until

import celery_actors as ray
from celery_actors.client.current import require_process
from celery_actors.handle import actor_id_of
from celery_actors.ids import mailbox_name
from celery_actors.local import PrivateCluster
from celery_actors.local.supervisor_client import program_states

SECONDS = 90


def log_called_by_express() -> ray.ActorHandle[Log]:
    """An actor that reads what comes by express: it has been up for a while."""
    log = Log.remote()
    for number in range(300):
        ray.get(log.add.remote("me", number), timeout=SECONDS)
    return log


def check(log: ray.ActorHandle[Log], calls: int) -> None:
    """All calls ran, once each, in order."""
    entries = ray.get(log.all.remote(), timeout=SECONDS)
    assert entries == [("me", number) for number in range(calls)]


def test_a_call_that_nothing_follows_is_acknowledged(mortal: PrivateCluster) -> None:
    """It is in the mailbox after it has run, and its actor has nothing else to do."""
    log, process = log_called_by_express(), require_process()
    queue = mailbox_name(actor_id_of(log))
    wait_until(lambda: unacknowledged(mortal, queue) == 0, "all calls to be acknowledged")
    assert ray.get(log.add.remote("me", 300), timeout=SECONDS) == 300
    process.sender.express.settle()
    broker_has_all()
    wait_until(lambda: unacknowledged(mortal, queue) == 0, "the last call to be acknowledged")
    check(log, 301)


def test_an_idle_actor_answers_while_the_broker_stands_still(mortal: PrivateCluster) -> None:
    log = log_called_by_express()
    pid = program_states(mortal.session_dir)["rabbitmq"].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        for number in range(300, 320):
            assert ray.get(log.add.remote("me", number), timeout=SECONDS) == number
    finally:
        os.kill(pid, signal.SIGCONT)
    for number in range(320, 340):
        assert ray.get(log.add.remote("me", number), timeout=SECONDS) == number
    check(log, 340)
    queue = mailbox_name(actor_id_of(log))
    wait_until(lambda: unacknowledged(mortal, queue) == 0, "all calls to be acknowledged")


def test_kill_of_rabbitmq_between_a_call_and_its_message(mortal: PrivateCluster) -> None:
    """The message is lost with the connection; the call has run, or is sent again."""
    log = log_called_by_express()
    calls = 300
    for _ in range(3):
        ref = log.add.remote("me", calls)
        old = kill_server(mortal, "rabbitmq")
        assert ray.get(ref, timeout=SECONDS) == calls
        wait_restarted(mortal, "rabbitmq", old)
        for number in range(calls + 1, calls + 20):
            assert ray.get(log.add.remote("me", number), timeout=SECONDS) == number
        calls += 20
    check(log, calls)
