"""The trace has what ran, each call once, in rows that do not overlap."""

from __future__ import annotations

from typing import Any

from celery_actors.state.schema import TaskState
from celery_actors.state.timeline import trace_events


def task(task_id: str, start: int | None, end: int | None, **fields: Any) -> TaskState:
    known: dict[str, Any] = {
        "task_id": task_id,
        "attempt_number": 0,
        "name": "Till.add",
        "state": "FINISHED" if end is not None else "RUNNING",
        "job_id": "j",
        "actor_id": "a",
        "type": "ACTOR_TASK",
        "func_or_class_name": "Till.add",
        "parent_task_id": None,
        "node_id": "n",
        "worker_id": "w",
        "worker_pid": 1,
        "error_type": None,
        "start_time_ms": start,
        "end_time_ms": end,
    }
    return TaskState(**{**known, **fields})


def test_a_call_is_an_event_of_its_length() -> None:
    events = trace_events([task("1", 5, 8)], {"n": "one"}, 100)
    (run,) = [event for event in events if event["ph"] == "X"]
    assert (run["name"], run["ts"], run["dur"]) == ("Till.add", 5000, 3000)
    assert run["args"]["task_id"] == "1"
    names = {event["name"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    assert names == {"process_name": "Node one", "thread_name": "worker:w"}
    assert trace_events([], {}, 100) == []


def test_what_waits_is_not_there_and_what_runs_lasts_until_now() -> None:
    events = trace_events([task("waits", None, None), task("runs", 40, None)], {}, 100)
    (run,) = [event for event in events if event["ph"] == "X"]
    assert (run["args"]["task_id"], run["dur"]) == ("runs", 60_000)


def test_calls_at_the_same_time_lie_side_by_side() -> None:
    tasks = [task("1", 0, 10), task("2", 5, 15), task("3", 10, 20), task("4", 0, 9, worker_id="v")]
    events = trace_events(tasks, {}, 100)
    rows = {e["args"]["task_id"]: e["tid"] for e in events if e["ph"] == "X"}
    assert rows["1"] == rows["3"]
    assert len({rows["1"], rows["2"], rows["4"]}) == 3
    names = [e["args"]["name"] for e in events if e["name"] == "thread_name"]
    assert sorted(names) == ["worker:v", "worker:w", "worker:w (2)"]


def test_nodes_are_processes() -> None:
    events = trace_events([task("1", 0, 1), task("2", 0, 1, node_id="m")], {"n": "one"}, 100)
    numbers = {e["args"]["task_id"]: e["pid"] for e in events if e["ph"] == "X"}
    assert numbers["1"] != numbers["2"]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert names == {numbers["1"]: "Node one", numbers["2"]: "Node m"}
