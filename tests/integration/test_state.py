"""The state API on a real cluster: what it lists is what there is."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from typing import Any

import pytest
from waiting import record_of, wait_for_state, wait_until, wait_until_alive

import celery_actors as ray
from celery_actors.handle import actor_id_of
from celery_actors.session import SessionInfo
from celery_actors.util import placement_group, remove_placement_group
from celery_actors.util.state import (
    get_actor,
    get_job,
    get_node,
    get_placement_group,
    get_task,
    get_worker,
    list_actors,
    list_jobs,
    list_nodes,
    list_placement_groups,
    list_tasks,
    list_workers,
    summarize_actors,
    summarize_tasks,
)


@ray.remote
class Till:
    def __init__(self, start: int = 0) -> None:
        self.sum = start
        self.opened = False

    def add(self, amount: int) -> int:
        self.sum += amount
        return self.sum

    def refuse(self) -> None:
        raise ValueError("no money")

    def pid(self) -> int:
        return os.getpid()


@ray.remote
class Broken:
    def __init__(self) -> None:
        raise RuntimeError("cannot be made")


@ray.remote(max_concurrency=4)
class Gate:
    def __init__(self) -> None:
        self.opened = False

    def wait(self) -> None:
        while not self.opened:
            time.sleep(0.005)

    def open(self) -> None:
        self.opened = True


@ray.remote
def double(number: int) -> int:
    return 2 * number


@ray.remote
def through(gate: Any) -> None:
    ray.get(gate.wait.remote())


def id_of(actor: Any) -> str:
    return actor_id_of(actor).hex()


def state_of(ref: Any) -> str | None:
    task = get_task(ref.task_id())
    assert not isinstance(task, list)
    return None if task is None else task.state


# -- actors --------------------------------------------------------------------------------


def test_an_actor_is_listed_with_where_it_is(cluster: SessionInfo) -> None:
    till = Till.options(num_cpus=0.5).remote()
    pid = ray.get(till.pid.remote())
    (actor,) = list_actors(filters=[("actor_id", "=", id_of(till))])
    assert (actor.state, actor.class_name, actor.pid) == ("ALIVE", "Till", pid)
    assert actor["state"] == actor.get("state") == "ALIVE"
    assert actor.get("nothing", 7) == 7
    assert dict(actor)["job_id"] == actor.job_id == cluster.job_id  # type: ignore[call-overload]
    assert actor.node_id == ray.nodes()[0]["NodeID"]
    assert actor.required_resources is None, "a detail"
    detailed = get_actor(id_of(till))
    assert detailed is not None
    assert detailed.required_resources == {"CPU": 0.5}
    assert detailed.is_detached is False
    assert detailed.death_cause is None
    assert detailed.start_time_ms is not None
    assert abs(detailed.start_time_ms / 1000 - time.time()) < 60


def test_an_actor_waits_then_dies_with_its_cause(cluster: SessionInfo) -> None:
    first = Till.options(num_cpus=4).remote()
    wait_until_alive(first)
    second = Till.options(num_cpus=4).remote()
    waiting = get_actor(id_of(second))
    assert waiting is not None
    assert (waiting.state, waiting.node_id, waiting.pid) == ("PENDING_CREATION", None, None)
    ray.kill(first)
    wait_until_alive(second)
    dead = get_actor(id_of(first))
    assert dead is not None
    assert dead.state == "DEAD"
    assert dead.end_time_ms is not None
    assert "kill" in dead.death_cause["actor_died_error_context"]["error_message"]


def test_a_constructor_that_raised_is_the_cause(cluster: SessionInfo) -> None:
    broken = Broken.remote()
    wait_for_state(broken, "DEAD")
    dead = get_actor(id_of(broken))
    assert dead is not None
    message = dead.death_cause["creation_task_failure_context"]["error_message"]
    assert "cannot be made" in message
    task = wait_until(
        lambda: list_tasks(filters=[("actor_id", "=", id_of(broken)), ("state", "=", "FAILED")]),
        "the failed constructor",
    )[0]
    assert (task.name, task.type) == ("Broken.__init__", "ACTOR_CREATION_TASK")


def test_an_actor_whose_arguments_are_not_there(cluster: SessionInfo) -> None:
    gate = Gate.remote()
    till = Till.remote(through.remote(gate))
    actor = get_actor(id_of(till))
    assert actor is not None
    assert (actor.state, actor.class_name) == ("DEPENDENCIES_UNREADY", "Till")
    (task,) = list_tasks(filters=[("actor_id", "=", id_of(till))])
    assert (task.state, task.type) == ("PENDING_ARGS_AVAIL", "ACTOR_CREATION_TASK")
    gate.open.remote()
    wait_until(lambda: get_actor(id_of(till)).state == "ALIVE", "the actor")  # type: ignore[union-attr]


def test_filters_and_limit(cluster: SessionInfo) -> None:
    tills = [Till.remote() for _ in range(3)]
    ray.get([till.add.remote(1) for till in tills])
    ids = {id_of(till) for till in tills}
    alive = list_actors(filters=[("state", "=", "alive"), ("class_name", "=", "Till")])
    assert ids <= {actor.actor_id for actor in alive}
    assert all(actor.state == "ALIVE" for actor in alive)
    others = list_actors(filters=[("class_name", "!=", "Till")])
    assert not ids & {actor.actor_id for actor in others}
    assert len(list_actors(limit=2)) == 2
    (one,) = list_actors(filters=[("pid", "=", record_of(tills[0]).pid)])
    assert one.actor_id == id_of(tills[0])
    with pytest.raises(ValueError, match="no field 'colour'"):
        list_actors(filters=[("colour", "=", "red")])
    with pytest.raises(ValueError, match="'=' or '!='"):
        list_actors(filters=[("state", "<", "ALIVE")])


# -- tasks ------------------------------------------------------------------------------------


def test_calls_that_ended_are_listed_with_their_outcome(cluster: SessionInfo) -> None:
    till = Till.remote()
    added, refused = till.add.remote(5), till.refuse.remote()
    named = till.add.options(name="the big one").remote(100)
    with pytest.raises(ValueError, match="no money"):
        ray.get([added, named, refused])
    task = get_task(added.task_id())
    assert task is not None
    assert not isinstance(task, list)
    assert (task.state, task.name, task.type) == ("FINISHED", "Till.add", "ACTOR_TASK")
    assert task.func_or_class_name == "Till.add"
    assert (task.actor_id, task.job_id) == (id_of(till), cluster.job_id)
    assert task.worker_pid == record_of(till).pid
    assert task.node_id == ray.nodes()[0]["NodeID"]
    assert task.start_time_ms <= task.end_time_ms  # type: ignore[operator]
    assert task.error_type is None
    failed = get_task(refused.task_id().replace("-", ""))
    assert failed is not None
    assert not isinstance(failed, list)
    assert (failed.state, failed.error_type) == ("FAILED", "TASK_EXECUTION_EXCEPTION")
    assert failed.error_message == "ValueError: no money"
    big = get_task(named.task_id())
    assert big is not None
    assert (big["name"], big["func_or_class_name"]) == ("the big one", "Till.add")  # type: ignore[call-overload]
    of_actor = list_tasks(filters=[("actor_id", "=", id_of(till))])
    assert {t.name for t in of_actor} == {"Till.__init__", "Till.add", "Till.refuse", "the big one"}
    assert all(t.start_time_ms is None for t in of_actor), "a detail"


def test_a_call_goes_from_waiting_to_running_to_finished(cluster: SessionInfo) -> None:
    gate = Gate.remote()
    till = Till.remote()
    first = through.remote(gate)
    wait_until(lambda: state_of(first) == "RUNNING", "the task to run")
    needs = till.add.remote(first)
    behind = double.remote(first)
    assert state_of(needs) == "PENDING_ARGS_AVAIL"
    assert state_of(behind) == "PENDING_ARGS_AVAIL"

    def running() -> list[Any]:
        filters = [("state", "=", "RUNNING"), ("name", "=", "Gate.wait")]
        return list(list_tasks(filters=filters, detail=True))

    wait_until(running, "the call that the task waits for to run")
    assert [call.end_time_ms for call in running()] == [None]
    gate.open.remote()
    ray.get(first)
    wait_until(lambda: state_of(first) == "FINISHED", "the task's end")


def test_calls_to_an_actor_without_a_process_wait_for_a_node(cluster: SessionInfo) -> None:
    big = Till.options(num_cpus=4).remote()
    wait_until_alive(big)
    waits = Till.options(num_cpus=4).remote()
    call = waits.add.remote(1)
    assert state_of(call) == "PENDING_NODE_ASSIGNMENT"
    task = double.remote(1)
    wait_until(lambda: state_of(task) == "PENDING_NODE_ASSIGNMENT", "the task among those listed")
    (listed,) = list_tasks(filters=[("task_id", "=", task.task_id())])
    assert (listed.name, listed.type, listed.actor_id) == ("double", "NORMAL_TASK", None)
    ray.kill(big)
    assert ray.get(call, timeout=60) == 1
    ray.kill(waits)
    assert ray.get(task, timeout=60) == 2


def test_queued_calls_are_submitted(cluster: SessionInfo) -> None:
    gate = Gate.remote()
    relay = Relay.remote(gate)
    calls = [relay.through.remote() for _ in range(3)]
    wait_until(lambda: state_of(calls[0]) == "RUNNING", "the first call to run")
    submitted = ["SUBMITTED_TO_WORKER"] * 2
    wait_until(lambda: [state_of(call) for call in calls[1:]] == submitted, "the others to be sent")
    gate.open.remote()
    ray.get(calls)
    assert {state_of(call) for call in calls} == {"FINISHED"}


@ray.remote
class Relay:
    def __init__(self, gate: Any) -> None:
        self.gate = gate

    def through(self) -> None:
        ray.get(self.gate.wait.remote())


def test_tasks_are_known_after_their_executor_ended(cluster: SessionInfo) -> None:
    refs = [double.remote(number) for number in range(5)]
    ray.get(refs)

    def executors() -> list[Any]:
        workers = list_workers(detail=True)
        return [worker for worker in workers if worker.class_name == "tasks"]

    wait_until(lambda: not executors(), "the end of the executors")
    assert {state_of(ref) for ref in refs} == {"FINISHED"}
    (task,) = list_tasks(filters=[("task_id", "=", refs[0].task_id())], detail=True)
    assert (task.name, task.type) == ("double", "NORMAL_TASK")


def test_an_actor_can_ask_too(cluster: SessionInfo) -> None:
    asker = Asker.remote()
    actors, tasks = ray.get(asker.ask.remote())
    assert id_of(asker) in actors
    assert tasks["Asker.ask"] == "RUNNING"


@ray.remote
class Asker:
    def ask(self) -> tuple[list[str], dict[str, str]]:
        actors = [actor.actor_id for actor in list_actors()]
        return actors, {task.name: task.state for task in list_tasks(limit=1000)}


def test_who_does_not_answer_is_named_or_left_out(cluster: SessionInfo) -> None:
    silent = Till.remote()
    till = Till.remote()
    ray.get([silent.add.remote(1), till.add.remote(1)])
    pid = record_of(silent).pid
    assert pid is not None
    os.kill(pid, 19)  # SIGSTOP: alive, and silent
    try:

        def missing() -> str:
            with pytest.raises(ray.exceptions.RayError, match="did not answer") as raised:
                list_tasks(timeout=2)
            return str(raised.value)

        # On a slow machine others may be late, too.
        alone = re.compile(f"1 of .*{id_of(silent)[:8]}")
        wait_until(lambda: alone.search(missing()), "an answer of all others")

        def who_told() -> set[str | None]:
            return {task.actor_id for task in list_tasks(timeout=2, raise_on_missing_output=False)}

        wait_until(lambda: id_of(till) in who_told(), "an answer of the other actor")
        assert id_of(silent) not in who_told()
    finally:
        os.kill(pid, 18)


# -- the rest -----------------------------------------------------------------------------------


def test_nodes_jobs_and_workers(cluster: SessionInfo) -> None:
    till = Till.remote()
    pid = ray.get(till.pid.remote())
    (node,) = list_nodes(detail=True)
    assert (node.node_name, node.state) == ("one", "ALIVE")
    assert node.resources_total["CPU"] == 4
    assert get_node(node.node_id) == node
    assert get_node("none") is None
    (job,) = list_jobs(filters=[("job_id", "=", cluster.job_id)])
    assert (job.status, job.type) == ("RUNNING", "DRIVER")
    assert job.actors >= 1
    assert get_job(cluster.job_id) is not None
    workers = list_workers(filters=[("job_id", "=", cluster.job_id)])
    assert [w.worker_type for w in workers].count("DRIVER") == 1
    (worker,) = [w for w in workers if w.pid == pid]
    assert worker.worker_type == "WORKER"
    found = get_worker(worker.worker_id)
    assert found is not None
    assert (found.actor_id, found.class_name) == (id_of(till), "Till")
    assert get_actor("0" * 32) is None
    assert get_task("no id") is None


def test_summaries_count(cluster: SessionInfo) -> None:
    class Counted:
        def run(self) -> None:
            pass

    counted = ray.remote(Counted)
    actors = [counted.remote() for _ in range(3)]
    ray.get([actor.run.remote() for actor in actors for _ in range(4)])
    ray.kill(actors[0])
    wait_for_state(actors[0], "DEAD")
    summary = summarize_actors()["cluster"]
    assert summary["summary_by"] == "class"
    assert summary["summary"]["Counted"]["state_counts"] == {"ALIVE": 2, "DEAD": 1}
    assert summary["total_actors"] >= 3
    tasks = summarize_tasks()["cluster"]
    assert tasks["summary"]["Counted.run"]["type"] == "ACTOR_TASK"
    assert tasks["summary"]["Counted.run"]["state_counts"] == {"FINISHED": 8}
    assert tasks["total_actor_tasks"] >= 8


def test_the_timeline_shows_what_ran(cluster: SessionInfo, tmp_path: Any) -> None:
    till = Till.remote()
    added = till.add.remote(1)
    ray.get([added, double.remote(1)])
    events = ray.timeline()
    (run,) = [e for e in events if e.get("args", {}).get("task_id") == added.task_id()]
    assert (run["name"], run["ph"]) == ("Till.add", "X")
    assert 0 <= run["dur"] < 60_000_000
    assert "double" in {event["name"] for event in events}
    assert "Node one" in {event["args"]["name"] for event in events if event["ph"] == "M"}
    file = tmp_path / "trace.json"
    assert ray.timeline(str(file)) is None
    written = json.loads(file.read_text())
    assert added.task_id() in {event["args"].get("task_id") for event in written}


def test_names_restarts_and_placement_groups(cluster: SessionInfo) -> None:
    named = Till.options(name="listed", max_restarts=1).remote()
    ray.get(named.pid.remote())
    (found,) = list_actors(filters=[("name", "=", "listed")], detail=True)
    assert (found.state, found.num_restarts) == ("ALIVE", 0)
    os.kill(ray.get(named.pid.remote()), signal.SIGKILL)
    assert ray.get(named.pid.remote(), timeout=60) != found.pid
    assert get_actor(found.actor_id).num_restarts == 1  # type: ignore[union-attr]
    group = placement_group([{"CPU": 1}], name="reserved")
    assert group.wait(60)
    (listed,) = list_placement_groups(filters=[("name", "=", "reserved")], detail=True)
    assert (listed.state, listed.strategy) == ("CREATED", "PACK")
    assert listed.bundles[0]["unit_resources"] == {"CPU": 1.0}  # type: ignore[index]
    assert get_placement_group(listed.placement_group_id) == listed
    remove_placement_group(group)
