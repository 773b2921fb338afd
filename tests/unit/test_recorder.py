"""The flight recorder: what stands in it is what a death interrupts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from launches import launch_in

from celery_actors.worker.launch import Launch
from celery_actors.worker.recorder import Recorder, forget_recorder, interrupted_calls

CALLER = bytes(range(8))


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    return launch_in(tmp_path)


def ids(*sequences: int) -> set[str]:
    return {(CALLER + sequence.to_bytes(8, "big")).hex() for sequence in sequences}


def test_what_is_committed_is_no_longer_there(launch: Launch) -> None:
    recorder = Recorder(launch, 4)
    for sequence in (1, 2, 3):
        assert recorder.started(CALLER, sequence)
    recorder.committed([(CALLER, 1), (CALLER, 3), (CALLER, 99)])
    assert set(interrupted_calls(launch)) == ids(2)


def test_when_it_is_full_a_commit_comes_first(launch: Launch) -> None:
    recorder = Recorder(launch, 2)
    assert recorder.started(CALLER, 1)
    assert recorder.started(CALLER, 2)
    assert not recorder.started(CALLER, 3)
    recorder.committed([(CALLER, 1)])
    assert recorder.started(CALLER, 3)
    assert set(interrupted_calls(launch)) == ids(2, 3)


def test_each_process_has_its_own(launch: Launch) -> None:
    other = replace(launch, incarnation="2" * 32)
    Recorder(launch, 2).started(CALLER, 1)
    assert interrupted_calls(other) == []
    forget_recorder(launch)
    assert interrupted_calls(launch) == []
