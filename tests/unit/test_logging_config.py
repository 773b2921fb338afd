"""How records are written as JSON, and how a configuration travels."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator

import pytest

from celery_actors.client import current
from celery_actors.logging_config import LoggingConfig
from celery_actors.worker.log_context import log_context


@pytest.fixture(autouse=True)
def root() -> Iterator[logging.Logger]:
    found = logging.getLogger()
    handlers, level = found.handlers[:], found.level
    yield found
    found.handlers[:] = handlers
    found.setLevel(level)


def written(config: LoggingConfig, record: logging.LogRecord) -> str:
    config.apply(dict)
    return logging.getLogger().handlers[-1].format(record)


def test_a_level_of_the_programs_own_travels_as_a_number() -> None:
    logging.addLevelName(25, "NOTICE")
    assert LoggingConfig.of_json(LoggingConfig(log_level="NOTICE").as_json()).log_level == 25


@pytest.mark.parametrize("given", [{"name"}, ("name",), ["name"]])
def test_attributes_travel_whatever_holds_them(given: list[str]) -> None:
    config = LoggingConfig(additional_log_standard_attrs=given)
    assert LoggingConfig.of_json(config.as_json()).additional_log_standard_attrs == ["name"]


@pytest.mark.parametrize("asked", [[], ["exc_text", "stack_info"]])
def test_what_was_raised_and_the_stack_are_written(asked: list[str]) -> None:
    try:
        raise KeyError("lost")
    except KeyError:
        record = logging.LogRecord("x", 40, "f.py", 1, "bad", (), sys.exc_info(), sinfo="Stack: s")
    config = LoggingConfig(encoding="JSON", additional_log_standard_attrs=asked)
    line = json.loads(written(config, record))
    assert "KeyError: 'lost'" in line["exc_text"]
    assert line["stack_info"] == "Stack: s"


class _Client:
    """What a log asks of the client; a child that becomes another caller ends with 3."""

    job_id, caller, node_id, beside = "a job", b"caller  ", None, None

    def __init__(self) -> None:
        self.pid = os.getpid()

    def share_all(self) -> None:
        """The fork comes."""

    def after_fork(self) -> None:
        os._exit(3)


def test_a_forked_child_that_logs_connects_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(current, "_process", _Client())
    pid = os.fork()
    if pid == 0:
        os._exit(0 if log_context()["job_id"] == "a job" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
