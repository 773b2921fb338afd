"""timeline(): when which call ran where, in the form of Chrome's trace viewer and Perfetto."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from celery_actors.state.listing import DEFAULT_TIMEOUT, list_nodes, list_tasks
from celery_actors.state.schema import TaskState

__all__ = ["timeline", "trace_events"]

_EVERYTHING = 1_000_000


def timeline(filename: str | None = None) -> list[dict[str, Any]] | None:
    """Return when which call ran, or write it to a file for ``chrome://tracing`` or Perfetto.

    It has the calls that :func:`celery_actors.state.list_tasks` knows: nodes appear as
    processes, processes as threads, calls that ran at the same time in one side by side.

    :returns: the events; with ``filename`` nothing.
    :raises OSError: the file can't be written.

    Example::

        ray.get([work.remote(n) for n in range(100)])
        ray.timeline("trace.json")
    """
    tasks = list_tasks(None, None, _EVERYTHING, DEFAULT_TIMEOUT, True, False)
    nodes = {node.node_id: node.node_name for node in list_nodes(limit=_EVERYTHING)}
    events = trace_events(tasks, nodes, time.time() * 1000)
    if filename is None:
        return events
    Path(filename).write_text(json.dumps(events), encoding="utf-8")
    return None


def trace_events(
    tasks: Iterable[TaskState], nodes: Mapping[str, str], now_ms: float
) -> list[dict[str, Any]]:
    """Return the trace's events (its format wants numbers for processes and threads).

    :param nodes: names by id.
    :param now_ms: until when that took what runs.
    """
    began = sorted(
        (task for task in tasks if task.start_time_ms is not None),
        key=lambda task: (task.start_time_ms, task.end_time_ms or now_ms),
    )
    node_numbers: dict[str, int] = {}
    lanes = _Lanes()
    events: list[dict[str, Any]] = []
    for task in began:
        assert task.start_time_ms is not None
        end = task.end_time_ms or now_ms
        node = node_numbers.setdefault(task.node_id or "", len(node_numbers))
        lane = lanes.take(node, task.worker_id or "", task.start_time_ms, end)
        events.append(
            {
                "cat": f"task::{task.name}",
                "name": task.name,
                "ph": "X",
                "pid": node,
                "tid": lane,
                "ts": task.start_time_ms * 1000,
                "dur": (end - task.start_time_ms) * 1000,
                "cname": "bad" if task.state == "FAILED" else "generic_work",
                "args": {
                    "task_id": task.task_id,
                    "job_id": task.job_id,
                    "actor_id": task.actor_id,
                    "attempt_number": task.attempt_number,
                    "func_or_class_name": task.func_or_class_name,
                    "state": task.state,
                },
            }
        )
    for node_id, number in node_numbers.items():
        name = f"Node {nodes.get(node_id, node_id)}"
        events.append(_name("process_name", number, None, name))
    events += [_name("thread_name", node, lane, text) for lane, node, text in lanes.named()]
    return events


def _name(what: str, pid: int, tid: int | None, name: str) -> dict[str, Any]:
    event: dict[str, Any] = {"name": what, "ph": "M", "pid": pid, "args": {"name": name}}
    return event if tid is None else {**event, "tid": tid}


class _Lanes:
    """Rows of the picture: a worker has as many as it ran calls at the same time."""

    def __init__(self) -> None:
        self._workers: dict[tuple[int, str], list[int]] = {}
        self._ends: list[float] = []

    def take(self, node: int, worker: str, start: float, end: float) -> int:
        """Return a row of the worker's that is free from ``start`` on."""
        own = self._workers.setdefault((node, worker), [])
        for lane in own:
            if self._ends[lane] <= start:
                self._ends[lane] = end
                return lane
        own.append(len(self._ends))
        self._ends.append(end)
        return own[-1]

    def named(self) -> list[tuple[int, int, str]]:
        """Return row, node and name of each row."""
        return [
            (lane, node, f"worker:{worker}" + (f" ({at + 1})" if at else ""))
            for (node, worker), own in self._workers.items()
            for at, lane in enumerate(own)
        ]
