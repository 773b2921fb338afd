"""PROTOCOL, Back-pressure, Holds, Death: the window, who keeps an actor alive, reaping."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from chaos_actors import Log
from faults import stopped, wait_gone
from waiting import record_of, wait_for_state, wait_until

import celery_actors as ray
from celery_actors.client import sender as sender_module
from celery_actors.client.current import require_process
from celery_actors.exceptions import PendingCallsLimitExceeded

pytestmark = pytest.mark.usefixtures("cluster")

StartNode = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def gate(tmp_path: Path) -> tuple[str, str]:
    return str(tmp_path / "started"), str(tmp_path / "gate")


def open_gate(gate: tuple[str, str]) -> None:
    Path(gate[1]).touch()


def held_actor(gate: tuple[str, str]) -> tuple[Any, Any]:
    """An actor inside a call that ends when the gate opens, and that call's ref."""
    log = Log.remote()
    ref = log.hold.remote(*gate)
    wait_until(Path(gate[0]).exists, "the call to run")
    return log, ref


# -- back-pressure -----------------------------------------------------------------------


@pytest.fixture
def small_window(monkeypatch: pytest.MonkeyPatch) -> None:
    process = require_process()
    monkeypatch.setattr(process, "settings", dataclasses.replace(process.settings, window_calls=10))
    monkeypatch.setattr(sender_module, "_WINDOW_PATIENCE", 0.05)
    monkeypatch.setattr(sender_module, "_MOST_WINDOWS", 3)


@pytest.mark.usefixtures("small_window")
def test_the_window_grows_without_progress_and_then_names_the_cycle(gate: tuple[str, str]) -> None:
    log, first = held_actor(gate)
    refs = [first]
    with pytest.raises(PendingCallsLimitExceeded, match="wait for each other"):
        refs += [log.add.remote("me", n) for n in range(100)]
    box = require_process().outboxes[log._celery_actor]
    assert len(box.unresolved) == 30, "three windows of ten"
    assert box.windows == 3
    open_gate(gate)
    wait_until(lambda: not box.unresolved, "all to be resolved")
    assert ray.get(log.add.remote("me", 0), timeout=60) == 0


@pytest.mark.usefixtures("small_window")
def test_a_full_window_blocks_until_calls_are_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender_module, "_WINDOW_PATIENCE", 1000.0)
    log = Log.remote()
    box_sizes = set()
    for n in range(200):
        log.add.remote("me", n)
        box_sizes.add(len(require_process().outboxes[log._celery_actor].unresolved))
    assert max(box_sizes) <= 10
    assert require_process().outboxes[log._celery_actor].windows == 1
    assert ray.get(log.count.remote(), timeout=60) == 200


@pytest.mark.usefixtures("small_window")
def test_event_loop_threads_never_block(gate: tuple[str, str]) -> None:
    log, _ = held_actor(gate)

    async def call() -> list[Any]:
        return [log.add.remote("me", n) for n in range(100)]

    refs = asyncio.run(call())
    assert require_process().outboxes[log._celery_actor].windows == 1
    open_gate(gate)
    assert ray.get(refs, timeout=60) == list(range(100))


def test_calls_to_oneself_never_block() -> None:
    log = Log.remote()
    assert ray.get(log.flood_self.remote(log, 1_200), timeout=60) == 1
    # The actor is a caller of its own: its calls have no order with this program's.
    wait_until(lambda: ray.get(log.count.remote(), timeout=60) == 1_200, "all 1,200 calls")


# -- holds -----------------------------------------------------------------------------------


def test_the_release_travels_behind_the_last_call(gate: tuple[str, str], tmp_path: Path) -> None:
    slow, argument = held_actor(gate)
    log = Log.remote()
    actor = log._celery_actor.hex()
    out = tmp_path / "out"
    for n in range(300):
        log.append.remote(str(out), n)
    log.append.remote(str(out), argument)  # not sent before the gate opens
    log.append.remote(str(out), "last")
    del log, argument
    process = require_process()
    wait_until(lambda: out.exists() and "299\n" in out.read_text(), "the calls before")
    assert process.control.holds(actor)
    open_gate(gate)
    wait_for_state(actor, "DEAD")
    assert out.read_text().split() == [*map(str, range(300)), gate[1], "last"]
    assert "no handle" in record_of(actor).cause
    del slow


def test_a_call_owns_the_holds_of_the_handles_inside(gate: tuple[str, str]) -> None:
    keeper, running = held_actor(gate)
    log = Log.remote()
    actor = log._celery_actor.hex()
    assert ray.get(log.count.remote()) == 0
    keeper.keep.remote(log)
    process = require_process()
    own = process.caller.hex()
    del log

    def owners() -> set[str]:
        return {token.partition(":")[0] for token in process.control.holds(actor)}

    assert [owner for owner in owners() if owner.startswith(f"{own}/c")], "the queued call holds it"
    open_gate(gate)
    wait_until(lambda: own not in "".join(owners()), "the receiver alone to hold it")
    assert len(owners()) == 1
    assert ray.get(keeper.ask_kept.remote(5), timeout=60) == 5
    keeper.keep.remote(None)
    wait_for_state(actor, "DEAD")
    assert ray.get(running) == gate[1]


def test_a_stored_object_owns_the_holds_of_the_handles_inside() -> None:
    log = Log.remote()
    actor = log._celery_actor.hex()
    ray.get(log.count.remote())
    ref = ray.put({"inside": [log]})
    process = require_process()
    del log
    wait_until(
        lambda: all("/o" in token for token in process.control.holds(actor)),
        "the object alone to hold the actor",
    )
    again = ray.get(ref)["inside"][0]
    assert ray.get(again.add.remote("me", 3), timeout=60) == 3
    del again, ref
    wait_for_state(actor, "DEAD")


# -- death and reservations ---------------------------------------------------------------------


def test_resources_are_released_when_the_process_is_reaped() -> None:
    log = Log.options(num_cpus=1).remote()
    pid = ray.get(log.pid.remote())
    free = ray.available_resources()["CPU"]
    (node,) = require_process().control.nodes()
    with stopped(node):  # it reaps nobody
        ray.kill(log)
        assert record_of(log).state == "DEAD"
        os.kill(pid, signal.SIGKILL)
        assert ray.available_resources()["CPU"] == free
    wait_until(lambda: ray.available_resources()["CPU"] == free + 1, "its CPU to be free")


def test_actor_processes_die_with_a_fork_server_that_can_do_nothing(start_node: StartNode) -> None:
    node = start_node("frozen", num_cpus=1, resources={"frozen": 1})
    wait_until(lambda: "frozen" in ray.cluster_resources(), "the node")
    log = Log.options(resources={"frozen": 1}).remote()
    pid = ray.get(log.pid.remote())
    server = psutil.Process(pid).ppid()
    os.kill(server, signal.SIGSTOP)  # it will not notice that its socket closes
    node.kill()
    node.wait()
    wait_gone([server, pid], "fork server and actor of a killed node worker")
