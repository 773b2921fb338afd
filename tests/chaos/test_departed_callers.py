"""What an actor knows of callers that are gone goes, and only when nothing of them can come."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from chaos_actors import Log
from faults import messages, unacknowledged
from raw import RawCaller
from waiting import wait_until, wait_until_alive

import celery_actors as ray
from celery_actors.client.current import require_process
from celery_actors.handle import actor_id_of
from celery_actors.ids import mailbox_name
from celery_actors.local import PrivateCluster

pytestmark = pytest.mark.usefixtures("cluster")

MANY = 70  # more than are known before an actor looks for those that are gone


def many(caller: RawCaller) -> list[bytes]:
    """Have MANY callers that are gone call the actor for the first time; returns them."""
    own = caller.caller
    callers = [n.to_bytes(4, "big") + own[:4] for n in range(MANY)]
    for each in callers:
        caller.caller = each
        caller.send((1, 0, "add", ("other", 0)))
    caller.caller = own
    return callers


def known(actor: Any) -> set[bytes]:
    """The callers whose cursors are stored."""
    process = require_process()
    return set(process.redis.hkeys(process.results.cursors(actor_id_of(actor))))


@pytest.mark.parametrize("options", [{}, {"max_concurrency": 3}], ids=["serial", "concurrent"])
def test_a_repeat_beyond_the_prefetch_does_not_run_again(
    brokers: PrivateCluster, tmp_path: Path, options: dict[str, Any]
) -> None:
    log = Log.options(**options).remote()
    pid = wait_until_alive(log).pid
    assert pid is not None
    started, gate = tmp_path / "started", tmp_path / "gate"
    with ExitStack() as stack:
        caller, other, quiet = (stack.enter_context(RawCaller(log)) for _ in range(3))
        for each in (caller, quiet):
            each.add(1)
            each.wait_for(1)
            each.end()
        queue = mailbox_name(actor_id_of(log))
        wait_until(lambda: unacknowledged(brokers, queue) == 0, "the acknowledgements")
        # While this runs nothing is acknowledged, and no more is delivered than the prefetch.
        other.send((1, 0, "hold", (str(started), str(gate))))
        wait_until(started.exists, "the call that holds up the others")
        last = stack.enter_context(RawCaller(log))
        os.kill(pid, signal.SIGSTOP)  # until all of it lies in the mailbox, in this order
        try:
            sent = many(other)  # the actor looks for callers that are gone
            wait_until(lambda: messages(brokers, queue) == MANY + 1, "those callers' calls")
            caller.add(1)  # a copy that was on its way when its sender ended
            wait_until(lambda: messages(brokers, queue) == MANY + 2, "the copy")
            last.add(1)
        finally:
            os.kill(pid, signal.SIGCONT)
        gate.touch()
        last.wait_for(1)
        ran = [n for name, n in ray.get(log.all.remote(), timeout=60) if name == "raw"]
        assert ran.count(1) == 3, "of caller, quiet and last, each once"
        wait_until(lambda: quiet.caller.hex().encode() not in known(log), "quiet forgotten")
        sent += many(last)
        wait_until(lambda: caller.caller.hex().encode() not in known(log), "caller forgotten")
        wait_until(lambda: ray.get(log.count.remote()) == len(sent) + 3, "all calls to have run")
        for gone in sent:  # nobody will ever ask for their results
            require_process().results.forget_caller(gone.hex())
