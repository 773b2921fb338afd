"""Names, facts and former options that programs of Ray's users rely on beside its actors."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

import celery_actors as ray
from celery_actors.exceptions import InsufficientResources, RayActorError
from celery_actors.experimental import tqdm_ray
from celery_actors.util.actor_pool import ActorPool
from celery_actors.util.multiprocessing import Pool, TimeoutError  # noqa: A004
from celery_actors.util.placement_group import placement_group, remove_placement_group

pytestmark = pytest.mark.usefixtures("cluster")

SECONDS = 60


@ray.remote(num_cpus=0)
class Account:
    def __init__(self) -> None:
        self.balance = 7
        self.made = None
        self.kind = None
        self.twice = None

    def balance(self) -> tuple[str, int]:  # type: ignore[no-redef]
        return "called", vars(self)["balance"]

    @classmethod
    def made(cls) -> str:
        return cls.__name__

    @staticmethod
    def twice(number: int) -> int:
        return 2 * number


def test_an_attribute_that_has_a_methods_name_does_not_hide_it() -> None:
    account = Account.remote()
    assert ray.get(account.balance.remote(), timeout=SECONDS) == ("called", 7)
    assert ray.get(account.made.remote(), timeout=SECONDS) == "Account"
    assert ray.get(account.twice.remote(4), timeout=SECONDS) == 8


def test_the_cloudpickle_of_the_package_carries_refs_handles_and_functions() -> None:
    account, ref = Account.remote(), ray.put(3)
    again, value, function = ray.cloudpickle.loads(ray.cloudpickle.dumps((account, ref, lambda: 4)))
    assert again == account
    assert ray.get(value, timeout=SECONDS) == 3
    assert function() == 4


# -- placement groups by options of their own -------------------------------------------------


@ray.remote(num_cpus=1)
def group_here() -> str | None:
    return ray.get_runtime_context().get_placement_group_id()


@ray.remote(num_cpus=1)
class GroupHere:
    def group(self) -> str | None:
        return ray.get_runtime_context().get_placement_group_id()


def test_the_former_options_for_placement_groups() -> None:
    group = placement_group([{"CPU": 1}])
    try:
        options = {"placement_group": group, "placement_group_bundle_index": 0}
        found = ray.get(group_here.options(**options).remote(), timeout=SECONDS)
        assert found == group.id.hex()
        actor = GroupHere.options(**options).remote()
        assert ray.get(actor.group.remote(), timeout=SECONDS) == group.id.hex()
        del actor
        for nowhere in ("default", None):
            ref = group_here.options(placement_group=nowhere).remote()
            assert ray.get(ref, timeout=SECONDS) is None
    finally:
        remove_placement_group(group)


def test_a_group_and_a_strategy_at_once_are_refused() -> None:
    group = placement_group([{"CPU": 1}])
    try:
        with pytest.raises(ValueError, match="leave one out"):
            group_here.options(placement_group=group, scheduling_strategy="SPREAD")
    finally:
        remove_placement_group(group)
    assert group_here.options(accelerator_type=None)
    with pytest.raises(ValueError, match="label_selector"):
        group_here.options(accelerator_type="A100")


# -- pools ------------------------------------------------------------------------------------


@ray.remote(num_cpus=0)
class Echo:
    def echo(self, value: Any) -> Any:
        return value


class Watched(ActorPool):
    """As programs extend it: by the parts of Ray's."""

    def counts(self) -> tuple[int, int, int]:
        return len(self._idle_actors), len(self._future_to_actor), len(self._pending_submits)

    def give_back(self, actor: Any) -> None:
        self._return_actor(actor)


def test_subclasses_of_the_actor_pool_find_its_parts() -> None:
    pool = Watched([Echo.remote(), Echo.remote()])
    assert pool.counts() == (2, 0, 0)
    for number in range(5):
        pool.submit(lambda actor, value: actor.echo.remote(value), number)
    assert pool.counts() == (0, 2, 3)
    assert pool._next_task_index == 2
    assert [pool.get_next(timeout=SECONDS) for _ in range(5)] == list(range(5))
    assert pool.counts() == (2, 0, 0)
    taken = pool.pop_idle()
    pool.give_back(taken)
    assert pool.counts() == (2, 0, 0)


def square(number: int) -> int:
    return number * number


def add(one: int, other: int) -> int:
    return one + other


def fails(number: int) -> int:
    raise KeyError(number)


def pid_after(_: Any = None) -> tuple[int, str | None]:
    return os.getpid(), os.environ.get("POOL_INITIALISED")


def initialise(value: str) -> None:
    os.environ["POOL_INITIALISED"] = value


@pytest.fixture
def pool() -> Any:
    with Pool(2) as made:
        yield made


def test_a_pool_does_what_multiprocessings_does(pool: Pool) -> None:
    assert pool.map(square, range(10)) == [n * n for n in range(10)]
    assert pool.starmap(add, [(1, 2), (3, 4)]) == [3, 7]
    assert list(pool.imap(square, range(6), chunksize=2)) == [n * n for n in range(6)]
    assert sorted(pool.imap_unordered(square, range(6))) == [n * n for n in range(6)]
    assert pool.apply(add, (1,), {"other": 2}) == 3
    assert pool.map(lambda n: n + 1, [1]) == [2]
    seen: list[int] = []
    waiting = pool.apply_async(square, (3,), callback=seen.append)
    assert waiting.get(SECONDS) == 9
    wait_until(lambda: seen == [9], "the callback")
    assert waiting.successful()


def test_what_a_pools_work_raises_is_raised_to_who_asked(pool: Pool) -> None:
    with pytest.raises(KeyError):
        pool.map(fails, [1])
    errors: list[BaseException] = []
    failed = pool.apply_async(fails, (2,), error_callback=errors.append)
    with pytest.raises(KeyError):
        failed.get(SECONDS)
    wait_until(lambda: errors, "the callback")
    with pytest.raises(TimeoutError):
        pool.apply_async(time.sleep, (30,)).get(0.05)


def test_a_pool_runs_in_actors_that_are_initialised_and_replaced() -> None:
    with Pool(2, initialise, ("yes",), maxtasksperchild=1) as made:
        found = made.map(pid_after, range(4), chunksize=1)
    assert {flag for _, flag in found} == {"yes"}
    assert os.getpid() not in {pid for pid, _ in found}
    assert len({pid for pid, _ in found}) == 4


def test_a_pool_goes_on_after_the_death_of_one_of_its_processes() -> None:
    with Pool(1) as made:
        pid, _ = made.apply(pid_after)
        with pytest.raises(RayActorError):
            made.apply(os.kill, (pid, signal.SIGKILL))
        assert made.apply(square, (3,)) == 9


def test_a_pool_that_is_closed_or_terminated_ends_its_actors() -> None:
    closed, terminated = Pool(2), Pool(2)
    waiting = closed.map_async(square, range(20))
    closed.close()
    closed.join()
    assert waiting.get(SECONDS) == [n * n for n in range(20)]
    terminated.map_async(time.sleep, [60] * 4)
    terminated.terminate()
    terminated.join()
    wait_until(
        lambda: not [a for a in ray.util.state.list_actors() if a.state == "ALIVE"],
        "the actors' end",
        SECONDS,
    )


def test_a_pool_is_no_larger_than_the_cluster() -> None:
    with pytest.raises(ValueError, match="a pool of 1000 processes"):
        Pool(1000)


def test_work_of_a_pool_whose_actors_cant_be_made_fails() -> None:
    with Pool(1, ray_remote_args={"num_cpus": 1000}) as pool:
        for _ in range(2):
            with pytest.raises(InsufficientResources):
                pool.apply_async(abs, (-1,)).get(timeout=SECONDS)


def test_joblib_runs_on_actors() -> None:
    import joblib  # comes with scikit-learn, which an example needs

    from celery_actors.util.joblib import register_ray

    register_ray()
    with joblib.parallel_backend("ray", n_jobs=2):
        work = [joblib.delayed(pid_after)() for _ in range(8)]
        found = joblib.Parallel()(work)
        squares = joblib.Parallel()(joblib.delayed(square)(n) for n in range(30))
    assert squares == [n * n for n in range(30)]
    assert os.getpid() not in {pid for pid, _ in found}


# -- facts and names --------------------------------------------------------------------------


def test_nodes_tell_their_address_and_store_and_can_be_asked_for_by_it() -> None:
    (node,) = ray.nodes()
    address, have = node["NodeManagerAddress"], ray.cluster_resources()
    assert node["Alive"] is node["alive"] is True
    assert address == ray.util.get_node_ip_address()
    assert have[f"node:{address}"] == 1.0
    assert have["object_store_memory"] > 0

    @ray.remote(num_cpus=0, resources={f"node:{address}": 0.01})
    def here() -> str:
        return ray.get_runtime_context().get_node_id()

    assert ray.get(here.remote(), timeout=SECONDS) == node["NodeID"]


@ray.remote(num_cpus=0)
class Context:
    def ids(self) -> tuple[Any, Any, Any, Any]:
        context = ray.get_runtime_context()
        return context.job_id, context.node_id, context.actor_id, context.task_id


def test_ids_as_objects() -> None:
    job, node, actor, task = ray.get(Context.remote().ids.remote(), timeout=SECONDS)
    context = ray.get_runtime_context()
    assert job == context.job_id == ray.JobID.from_hex(context.get_job_id())
    assert node == ray.NodeID.from_hex(ray.nodes()[0]["NodeID"])
    assert isinstance(actor, ray.ActorID)
    assert isinstance(task, ray.TaskID)
    assert ray.ObjectID is ray.ObjectRef
    assert ray.JobID.from_int(7).int() == 7
    ref = ray.put(3)
    assert ray.ObjectRef.from_binary(ref.binary()) == ray.ObjectRef.from_hex(ref.hex()) == ref
    assert not ref.is_nil()
    with pytest.raises(ValueError, match="18 bytes"):
        ray.ObjectRef.from_binary(b"short")
    for kind in (ray.ActorID, ray.JobID, ray.TaskID, ray.NodeID, ray.WorkerID, ray.UniqueID):
        made: Any = kind.from_random()
        assert kind.from_binary(made.binary()) == made == kind.from_hex(made.hex())
        assert len(made.binary()) == kind.size()
        assert kind.nil().is_nil()
        with pytest.raises(ValueError, match="bytes"):
            kind(b"short")


def test_a_class_tells_what_it_was_made_of() -> None:
    assert Account.__ray_metadata__.modified_class.__name__ == "Account"
    assert Account.__ray_metadata__.class_name == "Account"
    assert Account.__ray_actor_class__ is Account.__ray_metadata__.modified_class
    assert Account.__ray_actor_class__.twice(4) == 8


def test_a_handle_tells_of_which_actor_and_class_it_is() -> None:
    account = Account.options(name="described").remote()
    for handle in (account, ray.get_actor("described")):
        assert handle._ray_actor_id == handle._actor_id
        described = handle._ray_actor_creation_function_descriptor
        assert (described.module_name, described.class_name) == (__name__, "Account")


def test_types_are_where_programs_import_them() -> None:
    from celery_actors import _raylet, remote_function, types
    from celery_actors.util.multiprocessing import pool

    assert isinstance(group_here, remote_function.RemoteFunction)
    assert _raylet.ObjectRef is types.ObjectRef is _raylet.ObjectID is ray.ObjectRef
    assert _raylet.ObjectRefGenerator is ray.ObjectRefGenerator
    assert pool.Pool is Pool


def test_version_gates_accept_the_version() -> None:
    release, _, own = ray.__version__.partition("+")
    assert tuple(map(int, release.split("."))) >= (2, 40, 0)
    assert own.startswith("actors.")


def test_the_address_under_its_private_name() -> None:
    from celery_actors._private.services import get_node_ip_address

    assert get_node_ip_address() == ray.util.get_node_ip_address()


def test_log_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from celery_actors.util import debug

    monkeypatch.setattr(debug, "_seen", {})
    assert [ray.util.log_once(key) for key in ("a", "b", "a", "a")] == [True, True, False, False]
    monkeypatch.setattr(debug, "_periodic", True)
    monkeypatch.setattr(debug, "_PERIOD_SECONDS", 0.0)
    assert ray.util.log_once("a")
    monkeypatch.setattr(debug, "_enabled", False)
    assert not ray.util.log_once("c")


def test_progress_bars_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(tqdm_ray.tqdm([1, 2, 3], desc="count", flush_interval_s=0)) == [1, 2, 3]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("count: 0% 0/3")
    assert lines[-1].startswith("count: 100% 3/3")
    bar: tqdm_ray.tqdm[Any] = tqdm_ray.tqdm(total=10, flush_interval_s=1000)
    for _ in range(10):
        bar.update()
    bar.close()
    assert [line.partition(" [")[0] for line in capsys.readouterr().err.splitlines()] == [
        "0% 0/10",
        "100% 10/10",
    ]


LOGS = """
import logging
import celery_actors as ray
ray.init(logging_config=ray.LoggingConfig(encoding="JSON", log_level="DEBUG",
                                          additional_log_standard_attrs=["name"]),
         local_mode=False)
logging.getLogger("shop").debug("sold %d", 3, extra={"item": "tea"})

@ray.remote(num_cpus=0)
class Cashier:
    def sell(self):
        logging.getLogger("cash").debug("took %d", 5, extra={"item": "coffee"})
        return ray.get(pay.remote()), ray.get_runtime_context().get_actor_id()

@ray.remote(num_cpus=0)
def pay():
    logging.getLogger("bank").info("paid")
    return ray.get_runtime_context().get_task_id()

print(*ray.get(Cashier.options(name="till").remote().sell.remote()), sep="\\n")
"""


def test_logging_config(run_script: Callable[..., Any], tmp_path: Path) -> None:
    done = run_script(LOGS)
    (line,) = [line for line in done.stderr.splitlines() if "sold 3" in line]
    found = json.loads(line)
    assert (found["message"], found["levelname"], found["name"]) == ("sold 3", "DEBUG", "shop")
    assert found["item"] == "tea"
    assert found["job_id"]
    assert "actor_id" not in found
    task, actor = done.stdout.splitlines()[:2]
    (line,) = [line for line in done.stderr.splitlines() if "took 5" in line]
    inside = json.loads(line[line.index("{") :])
    assert (inside["levelname"], inside["name"], inside["item"]) == ("DEBUG", "cash", "coffee")
    assert (inside["actor_id"], inside["actor_name"], inside["task_func_name"]) == (
        actor,
        "till",
        "Cashier.sell",
    )
    assert inside["job_id"] == found["job_id"] != inside["worker_id"]
    (line,) = [line for line in done.stderr.splitlines() if '"paid"' in line]
    nested = json.loads(line[line.index("{") :])
    assert (nested["task_id"], nested["name"]) == (task, "bank")
    with pytest.raises(ValueError, match="encoding"):
        ray.LoggingConfig(encoding="XML")
    with pytest.raises(ValueError, match="no attribute"):
        ray.LoggingConfig(additional_log_standard_attrs=["nothing"])


CONTEXT = """
import sys
import celery_actors as ray
context = ray.init()
assert context.python_version == "%d.%d.%d" % sys.version_info[:3]
assert context.ray_version == ray.__version__
address = ray.util.get_node_ip_address()
assert context["node_ip_address"] == context.get("node_ip_address") == address
assert dict(context) == context.address_info
assert context.dashboard_url is context.address_info["webui_url"] is None
context.disconnect()
assert not ray.is_initialized()
"""


def test_what_init_returns_tells_where_the_cluster_is(run_script: Callable[..., Any]) -> None:
    run_script(CONTEXT)


def test_local_mode_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match="private cluster"):
        ray.init(local_mode=True)
