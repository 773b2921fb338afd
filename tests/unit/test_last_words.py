"""What a process says at last: its node hears it, once, from nobody else."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
from launches import launch_in

from celery_actors.store.sweep import Sweep
from celery_actors.worker import last_words as module
from celery_actors.worker.last_words import (
    LastWords,
    forget_last_words,
    last_words,
    say,
    speak_as,
    take_back,
)
from celery_actors.worker.launch import Launch


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    monkeypatch.setattr(module, "_speaker", None)
    return launch_in(tmp_path / "memory")


def test_the_first_words_are_heard(launch: Launch) -> None:
    say("nobody speaks yet")
    assert last_words(launch) is None
    speak_as(launch)
    say("it was told to", over=True)
    say("something else, later")
    assert last_words(launch) == last_words(launch) == LastWords("it was told to", over=True)
    forget_last_words(launch)
    assert last_words(launch) is None


def test_what_the_records_know_is_taken_back(launch: Launch) -> None:
    speak_as(launch)
    say("it was told to", over=True)
    take_back()
    assert last_words(launch) is None


def test_a_child_that_user_code_forked_says_nothing(launch: Launch) -> None:
    speak_as(launch)
    pid = os.fork()
    if pid == 0:
        say("of the child")
        os._exit(0)
    os.waitpid(pid, 0)
    assert last_words(launch) is None
    say("of the process")
    pid = os.fork()
    if pid == 0:
        take_back()
        os._exit(0)
    os.waitpid(pid, 0)
    assert last_words(launch) == LastWords("of the process")


def test_words_that_were_cut_short_are_none(launch: Launch, tmp_path: Path) -> None:
    speak_as(launch)
    say("a cause", over=True)
    (path,) = (tmp_path / "memory").iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    assert last_words(launch) is None
    path.write_text('{"other": 1}')
    assert last_words(launch) is None


def test_without_room_for_words_the_process_ends_as_well(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "memory").touch()  # no directory
    speak_as(launch)
    say("a cause")


def test_words_that_cannot_be_written_do_not_keep_the_process(launch: Launch) -> None:
    pid = os.fork()
    if pid == 0:  # as in full shared memory: the file can be made, and nothing written
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        speak_as(launch)
        try:
            say("a cause", over=True)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert last_words(launch) is None


def test_words_go_with_their_node(launch: Launch, tmp_path: Path) -> None:
    speak_as(launch)
    say("a cause")
    sweep = Sweep(lambda oids: [False] * len(oids), lambda _: False, lambda _: False, 600.0)
    assert sweep.run(tmp_path / "memory", lambda _owner: True) == 0
    assert last_words(launch) is not None
    assert sweep.run(tmp_path / "memory", lambda _owner: False) == 1
