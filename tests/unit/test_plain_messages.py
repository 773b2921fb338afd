"""What plain Celery clients send is refused, or runs and has a result: no header ends an actor."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from celery import Celery
from celery.worker import state

from celery_actors.worker.plain_calls import PlainCalls
from celery_actors.worker.plain_messages import PlainCall, decode_plain
from celery_actors.worker.plain_results import PlainResults

REFUSED = (ValueError, KeyError, TypeError)
ODD: tuple[Any, ...] = ("x", 5, -1, 1e400, True, b"\xff", [1], [[1]], [{}], {"a": 1}, {"a": {}})
HEADERS = (
    *("id", "task", "group", "parent_id", "root_id", "retries", "expires", "eta", "ignore_result"),
    *("stamps", "stamped_headers", "_children", "__class__", "delivery_info", "get", "update"),
)


def message(**headers: Any) -> Any:
    return SimpleNamespace(
        content_type="application/json", content_encoding="utf-8", errors=[], headers=headers
    )


def decode(**headers: Any) -> PlainCall:
    return decode_plain(message(**{"id": "1", "task": "shop.buy", **headers}), b"[[], {}, {}]", 1)


@pytest.fixture(params=[False, True], ids=["results", "extended results"])
def commits(request: pytest.FixtureRequest) -> Any:
    """Return who is given the results; `run` runs a call."""
    app = Celery("plain", backend="redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.result_extended = request.param
    commits, instance = Mock(), Mock()
    instance.public_method.return_value = lambda: "bought"
    results = PlainResults(app, Mock(), "host", "queue")
    calls = PlainCalls(instance, commits, Mock(), results, Mock(crashed=False, is_child=False))
    commits.run = calls.run
    return commits


@pytest.mark.parametrize("header", HEADERS)
def test_a_header_of_any_value_ends_no_actor(commits: Any, header: str) -> None:
    for value, others in itertools.product(
        ODD, ({}, {"stamped_headers": ["a"]}, {"stamps": {"a": "1"}})
    ):
        try:
            call = decode(**{**others, header: value})
        except REFUSED:
            continue
        commits.add.reset_mock()
        commits.run(call)
        commits.add.assert_called_once()


def test_an_id_that_no_key_can_hold_is_refused() -> None:
    body = b'{"id": "\\ud800", "task": "shop.buy", "args": [], "kwargs": {}}'
    with pytest.raises(UnicodeEncodeError):
        decode_plain(message(), body, 1)


@pytest.mark.parametrize("stamp", ["spring", ["winter", "spring"]])
def test_a_call_is_revoked_by_its_stamps(
    commits: Any, stamp: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(state.revoked_stamps, "sale", ["spring"])
    for headers, revoked in ((["sale"], True), (["other"], False)):
        commits.add.reset_mock()
        commits.run(decode(stamped_headers=headers, stamps={"sale": stamp, "other": "x"}))
        ((_, _, _, stored), _) = commits.add.call_args
        assert (b'"REVOKED"' in stored.value) is revoked
