"""Short tasks wait in executors behind others, and nobody is worse off for it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

import celery_actors as ray
from celery_actors.client import executors as executors_module
from celery_actors.client.current import require_process
from celery_actors.exceptions import WorkerCrashedError

pytestmark = pytest.mark.usefixtures("cluster")

SECONDS = 60
CPUS = 4


def runs(folder: Path) -> dict[str, int]:
    """How often each task has run."""
    return {path.name: path.stat().st_size for path in folder.iterdir()}


def note(folder: str, name: object) -> None:
    descriptor = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, b".")
    os.close(descriptor)


@ray.remote
def short(folder: str, number: object) -> object:
    note(folder, number)
    return number


@ray.remote
def follows(_: str, folder: str, number: int) -> None:
    note(folder, f"late{number}")


@ray.remote
def blocker(folder: str, gate: str, number: object) -> str:
    note(folder, f"blocker{number}")
    while not Path(gate).exists():
        time.sleep(0.01)
    return "done"


@ray.remote(num_cpus=0)
class Signal:
    def __init__(self) -> None:
        self.sent = asyncio.Event()

    async def send(self) -> None:
        self.sent.set()

    async def wait(self) -> str:
        await self.sent.wait()
        return "was sent"


@ray.remote
def waits_for(signal: Any) -> Any:
    return ray.get(signal.wait.remote())


@ray.remote
def sends(signal: Any) -> str:
    ray.get(signal.send.remote())
    return "sent"


@ray.remote
def waits_in_get(refs: list[Any]) -> list[Any]:
    return ray.get(refs)


@ray.remote
def dies(folder: str) -> None:
    note(folder, "dies")
    os._exit(7)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As many executors as CPUs are there and stay, and tasks have been short of late."""
    folder = tmp_path / "runs"
    folder.mkdir()
    gate = str(tmp_path / "all-here")
    refs = [blocker.remote(str(folder), gate, number) for number in range(CPUS)]
    executors = require_process().executors
    wait_until(lambda: len(runs(folder)) == CPUS, "as many executors as CPUs")
    wait_until(lambda: executors.statistics()["leases"] == CPUS, "no more executors than CPUs")
    monkeypatch.setattr(executors_module, "_LINGER", SECONDS)
    Path(gate).touch()
    assert ray.get(refs, timeout=SECONDS) == ["done"] * CPUS
    for path in folder.iterdir():
        path.unlink()
    _short_of_late()
    return folder


def _short_of_late() -> None:
    """Set what the pools have measured: tasks are short, and each executor has run one."""
    for pool in require_process().executors._pools.values():
        pool.usual = 0.0005
        for lease in pool.leases.values():
            lease.calls = 1


def cancel_all(refs: Sequence[ray.ObjectRef[Any]]) -> None:
    """Cancel tasks; getting any of them says so."""
    for ref in refs:
        ray.cancel(ref)
    for ref in refs:
        with pytest.raises(ray.exceptions.TaskCancelledError):
            ray.get(ref, timeout=SECONDS)


def taken_back() -> int:
    return require_process().executors.statistics()["taken_back"]


def test_tasks_behind_one_that_takes_long_go_elsewhere_and_run_once(
    folder: Path, tmp_path: Path
) -> None:
    gate, before = tmp_path / "gate", taken_back()
    blocked = [blocker.remote(str(folder), str(gate), number) for number in range(CPUS - 1)]
    refs = [short.remote(str(folder), number) for number in range(100)]
    assert ray.get(refs, timeout=SECONDS) == list(range(100))
    assert taken_back() > before
    gate.touch()
    assert ray.get(blocked, timeout=SECONDS) == ["done"] * (CPUS - 1)
    assert set(runs(folder).values()) == {1}
    assert len(runs(folder)) == 100 + CPUS - 1


def test_tasks_whose_refs_are_dropped_run_once_too(folder: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    blocked = [blocker.remote(str(folder), str(gate), number) for number in range(CPUS - 1)]
    for number in range(50):
        short.remote(str(folder), number)
    for number in range(50, 100):
        assert short.options(num_returns=0).remote(str(folder), number) is None
    wait_until(lambda: len(runs(folder)) == 100 + CPUS - 1, "all of them")
    gate.touch()
    assert ray.get(blocked, timeout=SECONDS) == ["done"] * (CPUS - 1)
    assert set(runs(folder).values()) == {1}


def test_a_task_may_wait_for_what_one_behind_it_does(folder: Path) -> None:
    signal = Signal.remote()
    waiting = [waits_for.remote(signal) for _ in range(CPUS)]
    before, sending = taken_back(), sends.remote(signal)
    assert ray.get(waiting, timeout=SECONDS) == ["was sent"] * CPUS
    assert ray.get(sending, timeout=SECONDS) == "sent"
    assert taken_back() > before


def test_tasks_that_get_refs_of_others(folder: Path) -> None:
    inner = [short.remote(str(folder), number) for number in range(60)]
    outer = [waits_in_get.remote(inner[at : at + 20]) for at in range(0, 60, 20)]
    assert ray.get(outer, timeout=SECONDS) == [list(range(at, at + 20)) for at in range(0, 60, 20)]


def test_a_task_that_waits_behind_another_can_be_cancelled(folder: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    blocked = [blocker.remote(str(folder), str(gate), number) for number in range(CPUS)]
    refs = [short.remote(str(folder), number) for number in range(40)]
    cancel_all(refs)
    gate.touch()
    assert ray.get(blocked, timeout=SECONDS) == ["done"] * CPUS
    assert set(runs(folder)) == {f"blocker{number}" for number in range(CPUS)}


def test_a_task_that_came_late_to_its_executor_can_be_cancelled(
    folder: Path, tmp_path: Path
) -> None:
    """It was submitted before what its executor has finished by now, and has its place behind."""
    argument, gate = tmp_path / "argument", tmp_path / "gate"
    awaited = blocker.options(num_cpus=0).remote(str(folder), str(argument), "argument")
    late = [follows.remote(awaited, str(folder), number) for number in range(20)]
    early = [short.remote(str(folder), f"early{number}") for number in range(40)]
    ray.get(early, timeout=SECONDS)
    blocked = [blocker.remote(str(folder), str(gate), number) for number in range(CPUS)]
    for number in range(CPUS):
        wait_until((folder / f"blocker{number}").exists, "all executors to be busy")
    _short_of_late()  # the early ones took as long as the machine is slow
    argument.touch()
    ray.wait([awaited], timeout=SECONDS)
    outboxes = require_process().outboxes
    wait_until(
        lambda: sum(len(box.unresolved) for box in list(outboxes.values())) > CPUS,
        "tasks to be sent",
    )
    cancel_all(late)
    gate.touch()
    assert ray.get(blocked, timeout=SECONDS) == ["done"] * CPUS
    assert not any(name.startswith("late") for name in runs(folder))


def test_a_task_that_was_taken_back_can_be_cancelled(folder: Path, tmp_path: Path) -> None:
    """Its place in the executor that it was taken back from is still there, and is not it."""
    gate = tmp_path / "gate"
    blocked = [blocker.remote(str(folder), str(gate), number) for number in range(CPUS)]
    before = taken_back()
    refs = [short.remote(str(folder), number) for number in range(40)]
    wait_until(lambda: taken_back() > before, "tasks to be taken back")
    cancel_all(refs)
    gate.touch()
    assert ray.get(blocked, timeout=SECONDS) == ["done"] * CPUS
    last = [short.remote(str(folder), f"last{number}") for number in range(40)]  # run behind them
    ray.get(last, timeout=SECONDS)
    expected = {f"blocker{number}" for number in range(CPUS)}
    assert {name for name in runs(folder) if not name.startswith("last")} == expected


def test_a_death_costs_those_that_had_not_begun_no_retry(folder: Path) -> None:
    """Each is allowed one; the one that dies takes two processes along."""
    killer = dies.options(max_retries=1).remote(str(folder))
    refs = [short.options(max_retries=1).remote(str(folder), number) for number in range(100)]
    assert ray.get(refs, timeout=SECONDS) == list(range(100))
    with pytest.raises(WorkerCrashedError, match="exited with status 7"):
        ray.get(killer, timeout=SECONDS)
    assert runs(folder)["dies"] == 2


def test_what_may_not_be_tried_again_is_never_behind_another(folder: Path) -> None:
    refs = [short.options(max_retries=0).remote(str(folder), number) for number in range(40)]
    killers = [dies.remote(str(folder)) for _ in range(2)]
    assert ray.get(refs, timeout=SECONDS) == list(range(40))
    for killer in killers:
        with pytest.raises(WorkerCrashedError):
            ray.get(killer, timeout=SECONDS)
    found = runs(folder)
    assert found.pop("dies") == 2 * 4  # each with its three retries
    assert found == {str(number): 1 for number in range(40)}


@pytest.mark.parametrize("cpus", [0, 0.01])
def test_a_burst_of_short_tasks_does_not_start_an_executor_for_each(cpus: float) -> None:
    """Neither where tasks ask for nothing nor where the node allows hundreds of them."""
    executors = require_process().executors

    @ray.remote(num_cpus=cpus)
    def successor(number: int) -> int:
        return number + 1

    def started() -> int:
        """By some bursts, where there was no executor before."""
        wait_until(lambda: not executors.statistics()["leases"], "the end of other executors")
        found: set[bytes] = set()
        for _ in range(4):
            refs = [successor.remote(number) for number in range(1000)]
            assert ray.get(refs, timeout=SECONDS) == list(range(1, 1001))
            found.update(actor for pool in executors._pools.values() for actor in pool.leases)
        return len(found)

    # While another program uses the processor, every task takes long.
    seen = [started()]
    while seen[-1] >= 40 and len(seen) < 3:
        seen.append(started())
    assert seen[-1] < 40, seen


def test_long_tasks_that_ask_for_nothing_run_all_at_once(tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    blocked = [
        blocker.options(num_cpus=0).remote(str(tmp_path), gate, number) for number in range(24)
    ]
    wait_until(lambda: len(runs(tmp_path)) == 24, "all of them to be under way", SECONDS)
    Path(gate).touch()
    assert ray.get(blocked, timeout=SECONDS) == ["done"] * 24
