"""The pure parts of the state API: filters, the merging of what processes tell, summaries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from celery_actors.control import ActorRecord
from celery_actors.protocol.reports import (
    CallReport,
    ProcessReport,
    decode_report,
    encode_report,
)
from celery_actors.state.filters import check_filters, matching, parse_filter
from celery_actors.state.schema import NodeState, TaskState
from celery_actors.state.summary import summary_of_tasks
from celery_actors.state.tasks import task_states


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("state=ALIVE", ("state", "=", "ALIVE")),
        ("pid != 17", ("pid", "!=", "17")),
        ("name=a=b", ("name", "=", "a=b")),
        ("name=a!=b", ("name", "=", "a!=b")),
    ],
)
def test_filters_as_they_are_written(text: str, expected: tuple[str, str, str]) -> None:
    assert parse_filter(text) == expected


@pytest.mark.parametrize("text", ["", "state", "=ALIVE", "state=", "state!"])
def test_what_is_no_filter(text: str) -> None:
    with pytest.raises(ValueError, match="is no filter"):
        parse_filter(text)


def call(task_id: str, state: str = "FINISHED", **fields: Any) -> CallReport:
    return CallReport(task_id, "ACTOR_TASK", "Till.add", None, state, **fields)


def report(*calls: CallReport, pending: tuple[CallReport, ...] = ()) -> ProcessReport:
    return ProcessReport("w", "j", "n", 1, "actor", "a", "Till", calls, pending)


def record(state: str) -> ActorRecord:
    fields: dict[str, Any] = dict.fromkeys(ActorRecord.__dataclass_fields__, None)
    return ActorRecord(**{**fields, "state": state, "class_name": "Till", "node_id": "n"})


def test_filters_compare_without_regard_to_case_or_type() -> None:
    tasks = task_states([report(call("1", attempt=2), call("2", "FAILED", attempt=3))], {})

    def found(*filters: Any) -> list[str]:
        checked = check_filters(TaskState, filters)
        return [task.task_id for task in matching(tasks, checked, 10, True)]

    assert found(("STATE", "=", "finished")) == ["1"]
    assert found(("attempt_number", "=", 3)) == found(("attempt_number", "=", "3")) == ["2"]
    assert found(("state", "!=", "FAILED"), ("name", "=", "Till.add")) == ["1"]
    assert found(("error_type", "=", None)) == ["1", "2"]
    with pytest.raises(ValueError, match="NodeState has no field 'state2'"):
        check_filters(NodeState, [("state2", "=", 1)])


def test_details_can_be_filtered_by_but_are_not_shown() -> None:
    tasks = task_states([report(call("1", error_message="no money"))], {})
    filters = check_filters(TaskState, [("error_message", "=", "no money")])
    (task,) = matching(tasks, filters, 10, False)
    assert task.error_message is None
    assert "error_message" not in TaskState.list_columns(detail=False)
    assert "error_message" in TaskState.list_columns()


def test_the_actor_knows_better_than_the_caller() -> None:
    waiting = (call("1", "SUBMITTED_TO_WORKER"), call("2", "SUBMITTED_TO_WORKER"))
    states = task_states([report(pending=waiting), report(call("1", "RUNNING", start=1.0))], {})
    assert [(task.task_id, task.state) for task in states] == [
        ("2", "SUBMITTED_TO_WORKER"),
        ("1", "RUNNING"),
    ]


def test_what_waits_comes_first_then_what_runs_then_the_last_that_ended() -> None:
    states = task_states(
        [
            report(
                call("old", start=1.0, end=2.0),
                call("new", start=1.0, end=9.0),
                call("runs", "RUNNING", start=3.0),
                pending=(call("waits", "PENDING_ARGS_AVAIL"),),
            )
        ],
        {},
    )
    assert [task.task_id for task in states] == ["waits", "runs", "new", "old"]
    assert states[2].end_time_ms == 9000


def test_attempts_are_tasks_of_their_own() -> None:
    states = task_states([report(call("1", "FAILED", attempt=0), call("1", attempt=1))], {})
    assert {(task.attempt_number, task.state) for task in states} == {
        (0, "FAILED"),
        (1, "FINISHED"),
    }


@pytest.mark.parametrize(
    ("actor", "expected"),
    [("PENDING", "PENDING_NODE_ASSIGNMENT"), ("ALIVE", "SUBMITTED_TO_WORKER")],
)
def test_a_call_in_the_mailbox_of_an_actor_without_a_process(actor: str, expected: str) -> None:
    waits = call("1", "SUBMITTED_TO_WORKER", actor_id="a")._replace(function="add")
    (task,) = task_states([report(pending=(waits,))], {"a": record(actor)})
    assert (task.state, task.name) == (expected, "Till.add")


def test_reports_come_back_as_they_were() -> None:
    given = report(call("1"), pending=(call("2", "PENDING_ARGS_AVAIL", parent="3"),))
    assert decode_report(encode_report(given)) == given
    with pytest.raises((TypeError, KeyError)):
        decode_report({"error": "no such command"})


def test_summary_by_name() -> None:
    tasks = task_states([report(call("1"), call("2"), call("3", "FAILED"))], {})
    summary = summary_of_tasks(tasks)
    assert summary["summary"]["Till.add"]["state_counts"] == {"FINISHED": 2, "FAILED": 1}
    assert (summary["total_actor_tasks"], summary["total_tasks"]) == (3, 0)


def test_states_are_mappings_too() -> None:
    @dataclass
    class Fruit(NodeState):
        pass

    node = Fruit("id", "host", False, "ALIVE", None, "one", {"CPU": 4.0}, {})
    assert node["node_id"] == node.get("node_id") == node.node_id == "id"
    assert "node_id" in node
    assert "colour" not in node
    assert node.get("colour") is None
    assert {**node}["resources_total"] == {"CPU": 4.0}
    assert node.asdict()["node_name"] == "one"
    with pytest.raises(KeyError):
        node["colour"]
