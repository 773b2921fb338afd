"""What a commit's push says of large values, and what no interruption may cut in two."""

from __future__ import annotations

import signal
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any, cast

import pytest

from celery_actors.ids import object_id
from celery_actors.protocol.calls import Call
from celery_actors.protocol.cursors import Cursor
from celery_actors.protocol.signing import Signer
from celery_actors.protocol.values import Copy, decode_push
from celery_actors.store import ring as ring_module
from celery_actors.store.rings import Rings
from celery_actors.store.shm import SharedMemoryStore
from celery_actors.worker.commits import Commits
from celery_actors.worker.executor import TaskExecutor
from celery_actors.worker.progress import Progress
from celery_actors.worker.runner import Run, current_run, shielded

SIGNER = Signer(b"k" * 32)
CALLER, ACTOR = b"c" * 8, b"a" * 16
KB = 1024


@pytest.fixture(autouse=True)
def no_time_goes_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring that is idle for a moment begins anew, and writes over what was not read yet."""
    monkeypatch.setattr(ring_module, "monotonic", lambda: 100.0)


def pushed(directory: Path, spill: Path, sizes: list[int]) -> tuple[list[Any], list[bytes | None]]:
    """What a push says of values of these sizes, and what its copies are read as."""
    store = SharedMemoryStore("0" * 16, "owner", directory=directory, spill=spill)
    rings = Rings(store)
    try:
        commits = Commits(
            cast(Any, None), SIGNER, ACTOR, 8 * KB, rings, Progress(), lambda _calls: None
        )
        # As stored values begin: a signature, and no flags.
        head = bytes(16) + b"\0"
        values = [head + bytes([n % 256]) * (size - 17) for n, size in enumerate(sizes)]
        results = [
            (object_id(CALLER, n + 1), n + 1, 0, value, False) for n, value in enumerate(values)
        ]
        push = decode_push(SIGNER, CALLER, commits._push(CALLER, Cursor(len(sizes)), results))
        found = [value for _, _, value in push.results]
        read = [
            rings.read(copy.place, copy.at, copy.size) if isinstance(copy, Copy) else None
            for copy in found
        ]
        for copy, value, expected in zip(found, read, values, strict=True):
            if isinstance(copy, Copy):
                assert value == expected
                assert copy.fits(value)
            elif copy is not None:
                assert copy == expected
        return found, read
    finally:
        rings.close()
        store.close()


class Numbered:
    """Stands in for the committer: an earlier incarnation's last commit had the number 7."""

    def __init__(self) -> None:
        self.number, self.sent = 0, SimpleQueue[int]()

    def open(self) -> dict[bytes, Cursor]:
        self.number = 7
        return {}

    def send(self, _commit: object) -> None:
        self.number += 1
        self.sent.put(self.number)

    def wait_for_answer(self) -> None:
        """It has come."""

    finish = wait_for_answer


def test_nothing_is_committed_before_the_number_of_the_last_commit_is_known(
    directory: Path, tmp_path: Path
) -> None:
    store = SharedMemoryStore("0" * 16, "owner", directory=directory, spill=tmp_path)
    rings, committer = Rings(store), Numbered()
    commits = Commits(
        cast(Any, committer), SIGNER, ACTOR, KB, rings, Progress(), lambda _calls: None
    )
    # As the consumer's thread does for a call that is cancelled while it waits.
    commits.add_values(CALLER, [(object_id(CALLER, 1), 1, 0, b"cancelled", False)])
    assert committer.sent.empty()
    commits.open()
    commits.start()
    assert committer.sent.get(timeout=60) == 8
    rings.close()
    store.close()


def test_small_values_are_pushed_and_of_large_ones_copies_are_named(
    directory: Path, tmp_path: Path
) -> None:
    found, _ = pushed(directory, tmp_path, [100, 9 * KB, 8 * KB, 20 * KB, 300 * KB, 10 * KB])
    kinds = [None if value is None else type(value) for value in found]
    assert kinds == [bytes, Copy, bytes, Copy, None, Copy], "300 KB would push out too much"
    assert len({copy.place for copy in found if isinstance(copy, Copy)}) == 1


def test_what_is_too_much_at_once_is_announced(directory: Path, tmp_path: Path) -> None:
    found, _ = pushed(directory, tmp_path, [200 * KB] * 26)
    assert [isinstance(value, Copy) for value in found] == [True] * 20 + [False] * 6


def test_a_window_of_results_in_one_commit_has_all_its_copies(
    directory: Path, tmp_path: Path
) -> None:
    """Redis was slow to answer the commit before."""
    found, _ = pushed(directory, tmp_path, [8300] * 500)
    assert all(isinstance(value, Copy) for value in found)
    assert len({copy.place for copy in found}) == 4, "records of up to 1 MiB"


@pytest.fixture
def run() -> Any:
    made = Run(Call(CALLER, 1, 0, 1, 0, 1, "f", b""), str)
    made.cancelled = True
    token = current_run.set(made)
    yield made
    current_run.reset(token)


def interrupt() -> None:
    TaskExecutor._interrupted(cast(TaskExecutor, SimpleNamespace()), signal.SIGINT, None)


def test_an_interruption_waits_until_results_are_committed(run: Run) -> None:
    done = []

    def commit() -> None:
        with shielded(run):
            interrupt()
            done.append("all of it")

    with pytest.raises(KeyboardInterrupt):
        commit()
    assert done
    with shielded(run):
        pass
    interrupt()  # it came, and comes once


def test_an_interruption_comes_once_and_not_after_the_end(run: Run) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupt()
    interrupt()
    later = Run(run.call, str)
    later.cancelled = later.over = True
    token = current_run.set(later)
    interrupt()
    current_run.reset(token)
