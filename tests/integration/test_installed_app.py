"""An app after install(): its ordinary tasks and their results are as before."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, chain, chord, group
from celery.backends.redis import RedisBackend
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import AsyncResult, GroupResult, ResultSet
from counting import Counting
from waiting import wait_until

import celery_actors as ray
from celery_actors.exceptions import ConfigurationError
from celery_actors.handle import actor_id_of
from celery_actors.ids import mailbox_name
from celery_actors.local import PrivateCluster

pytestmark = [
    pytest.mark.usefixtures("cluster"),
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery's
]

SECONDS = 60

TASKS = """
import os
from celery import Celery

app = Celery("shop", broker=os.environ["CELERY_BROKER_URL"])
app.conf.result_backend = os.environ["CELERY_RESULT_BACKEND"]
app.conf.task_default_queue = os.environ["SHOP_QUEUE"]
app.conf.result_extended = True
app.conf.result_expires = 60

@app.task(bind=True)
def steps(self, gate):
    self.update_state(state="PROGRESS", meta={"done": 1})
    while not os.path.exists(gate):
        import time
        time.sleep(0.02)
    return "over"

@app.task
def double(n):
    return 2 * n

@app.task
def total(numbers):
    return sum(numbers)

@app.task
def fail():
    raise ValueError("no such thing", 5)

@app.task
def spread(n):
    return double.delay(n)
"""


@ray.remote
class Counter(Counting):
    def after(self, gate: str) -> str:
        wait_until(lambda: Path(gate).exists(), "the gate")
        return "after the gate"


class Own(RedisBackend):  # type: ignore[misc]  # untyped base
    """A user's own backend."""


@pytest.fixture(scope="module")
def queue(brokers: PrivateCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The queue of a stock worker with ordinary tasks."""
    folder, name = tmp_path_factory.mktemp("shop"), f"celery_tasks_{os.getpid()}"
    (folder / "shop_tasks.py").write_text(TASKS)
    command = [sys.executable, "-m", "celery", "-A", "shop_tasks", "worker", "-P", "threads"]
    options = ["-c", "3", "-n", "tasks@%h", "-l", "INFO", "--without-mingle", "--without-gossip"]
    with (folder / "log").open("wb") as log:
        worker = subprocess.Popen(
            [*command, *options],
            cwd=folder,
            env={**os.environ, **brokers.address.environment(), "SHOP_QUEUE": name},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    wait_until(lambda: b" ready." in (folder / "log").read_bytes(), "the worker", 90)
    yield name
    with Celery("end", broker=brokers.address.broker_url, set_as_current=False) as app:
        worker.terminate()
        worker.wait(SECONDS)
        with app.connection_for_write() as connection:
            connection.default_channel.queue_delete(name)
            connection.default_channel.exchange_delete(name)
    with redis.Redis.from_url(brokers.address.result_backend) as client:
        for key in client.scan_iter("celery-task*"):
            client.delete(key)


@contextmanager
def make_app(brokers: PrivateCluster, kind: str) -> Iterator[Celery]:
    address = brokers.address
    backend = address.result_backend
    if kind == "own":
        backend = f"{__name__}:Own+{backend}"
    app = Celery(kind, broker=address.broker_url, backend=backend, set_as_current=False)
    app.conf.result_expires = 60
    if kind != "keyless":
        app.conf.actors_key_file = str(address.key_file)
        app.conf.actors_shared_memory_dir = str(address.shared_memory_dir)
    if kind == "overriding":
        app.loader.override_backends = {"redis": f"{__name__}:Own"}
    with app if kind == "stock" else ray.install(app):
        yield app
        close(app.backend)


def close(backend: Any) -> None:
    gc.collect()  # results unsubscribe when they are collected, and would connect again
    backend.result_consumer.stop()
    backend.client.connection_pool.disconnect()


@pytest.fixture(scope="module", params=["stock", "installed", "keyless", "own", "overriding"])
def app(brokers: PrivateCluster, request: pytest.FixtureRequest) -> Iterator[Celery]:
    with make_app(brokers, request.param) as made:
        yield made


@pytest.fixture(scope="module")
def installed(brokers: PrivateCluster) -> Iterator[Celery]:
    with make_app(brokers, "installed") as made:
        yield made


@pytest.fixture
def task(app: Celery, queue: str) -> Callable[..., Any]:
    """Makes signatures of the worker's tasks."""

    def make(name: str, *args: Any) -> Any:
        return app.signature(f"shop_tasks.{name}", args=args, options={"queue": queue})

    return make


def test_on_message_and_on_interval(app: Celery, task: Callable[..., Any], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    seen: list[str] = []
    looks: list[None] = []

    def take(meta: Any) -> None:
        seen.append(meta["status"])
        if meta["status"] == "PROGRESS":
            gate.touch()

    result = task("steps", str(gate)).apply_async()
    value = result.get(SECONDS, on_message=take, on_interval=lambda: looks.append(None))
    assert value == "over"
    assert [status for status in seen if status != "PENDING"] == ["PROGRESS", "SUCCESS"]
    assert looks
    result.forget()
    assert not result.exists()


def test_failures(task: Callable[..., Any]) -> None:
    result = task("fail").apply_async()
    with pytest.raises(ValueError, match="no such thing"):
        result.get(SECONDS)
    assert result.traceback.rstrip().endswith("ValueError: ('no such thing', 5)")
    again = AsyncResult(result.id, app=result.app)
    error = again.get(SECONDS, propagate=False)
    assert (type(error), error.args) == (ValueError, ("no such thing", 5))
    result.forget()


def test_a_timeout(app: Celery) -> None:
    # The second is an id of the user's own, in the form of those of calls.
    for task_id in (str(uuid.uuid4()), "00000000-0000-0000-0000-000000000007"):
        result = app.AsyncResult(task_id)
        with pytest.raises(CeleryTimeoutError):
            result.get(timeout=0.2)
        result.forget()


def test_groups_chains_and_chords(app: Celery, task: Callable[..., Any]) -> None:
    made = group(task("double", n) for n in range(5)).apply_async()
    made.save()
    assert GroupResult.restore(made.id, app=app) == made
    assert made.get(SECONDS) == [0, 2, 4, 6, 8]
    assert made.join(SECONDS) == [0, 2, 4, 6, 8]
    assert sorted(meta["result"] for _, meta in made.iter_native(SECONDS)) == [0, 2, 4, 6, 8]
    assert made.completed_count() == 5
    made.delete()
    made.forget()
    chained = chain(task("double", 1), task("double"), task("double")).apply_async()
    assert chained.get(SECONDS) == 8
    assert chained.parent.get(SECONDS) == 4
    assert chained.parent.children == [chained]
    chained.forget()
    total = chord([task("double", 1), task("double", 2)], task("total")).apply_async()
    assert total.get(SECONDS) == 6
    total.parent.forget()
    total.forget()


def test_what_a_result_tells(app: Celery, task: Callable[..., Any]) -> None:
    result = task("spread", 4).apply_async()
    result.get(SECONDS)
    (child,) = result.children
    assert child.get(SECONDS) == 8
    values = [value for _, value in result.collect(timeout=SECONDS)]
    assert values[-1] == 8
    assert len(result.build_graph()) == 2
    assert (result.name, result.args, result.retries) == ("shop_tasks.spread", [4], 0)
    assert result.date_done is not None
    copy = pickle.loads(pickle.dumps(result))
    assert copy == result
    assert isinstance(copy.backend, RedisBackend)
    for each in (child, result):
        each.forget()


def test_the_backend_is_the_apps_own(brokers: PrivateCluster) -> None:
    for kind in ("own", "overriding"):
        with make_app(brokers, kind) as app:
            app.conf.redis_socket_timeout = 7.0
            app.conf.result_backend_transport_options = {"global_keyprefix": "shop_"}
            assert isinstance(app.backend, Own)
            assert app.backend.connparams["socket_timeout"] == 7.0
            assert app.backend.get_key_for_task("a") == b"shop_celery-task-meta-a"


# -- results of calls -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["installed", "own", "overriding"])
def test_groups_of_calls_tasks_and_plain_calls(
    brokers: PrivateCluster, queue: str, kind: str, tmp_path: Path
) -> None:
    counter = Counter.remote()
    refs = [counter.increment.remote() for _ in range(3)]
    assert ray.get(refs, timeout=SECONDS) == [1, 2, 3]
    gate = tmp_path / "gate"
    refs.append(counter.after.remote(str(gate)))  # not there yet
    with make_app(brokers, kind) as app:
        plain = app.send_task("Counter.increment", queue=mailbox_name(actor_id_of(counter)))
        task = app.send_task("shop_tasks.double", [4], queue=queue)
        own = [app.AsyncResult(ref.task_id()) for ref in refs]
        for make in (lambda r: ResultSet(r, app=app), lambda r: GroupResult("g", r, app=app)):
            assert make(own[:3]).get(SECONDS) == [1, 2, 3]
            assert make(own[:3]).join(SECONDS) == [1, 2, 3]
            assert make(own[:3]).join_native(SECONDS) == [1, 2, 3]
        early = ResultSet([app.AsyncResult(ref.task_id()) for ref in refs], app=app)
        with pytest.raises(CeleryTimeoutError):
            early.get(timeout=0.2)
        early.forget()
        gate.touch()
        fresh = [app.AsyncResult(ref.task_id()) for ref in refs]
        mixed = ResultSet([*fresh, plain, task], app=app)
        expected = [1, 2, 3, "after the gate", 4, 8]
        assert mixed.get(SECONDS) == expected
        assert mixed.join(SECONDS) == expected
        assert mixed.successful()
        seen: dict[str, Any] = {}
        mixed.join_native(SECONDS, callback=seen.__setitem__)
        assert [seen[result.id] for result in mixed] == expected
        metas = dict(ResultSet([*fresh, plain, task], app=app).iter_native(SECONDS))
        assert {meta["status"] for meta in metas.values()} == {"SUCCESS"}
        assert len(metas) == len(expected)
        assert [value for _, value in fresh[3].collect(timeout=SECONDS)] == ["after the gate"]
        assert fresh[0].exists()
        for result in (plain, task):
            result.forget()


def test_a_failed_call_among_others(installed: Celery) -> None:
    counter = Counter.remote()
    refs = [counter.increment.remote(), counter.fail.remote(), counter.increment.remote()]
    ray.wait(refs, num_returns=3, timeout=SECONDS)
    results = [installed.AsyncResult(ref.task_id()) for ref in refs]
    with pytest.raises(ValueError, match="no such thing"):
        ResultSet(results, app=installed).get(SECONDS)
    one, error, two = ResultSet(results, app=installed).get(SECONDS, propagate=False)
    assert (one, two) == (1, 2)
    assert isinstance(error, ValueError)


def test_a_call_is_awaited_with_on_message_and_on_interval(
    installed: Celery, tmp_path: Path
) -> None:
    counter, gate = Counter.remote(), tmp_path / "gate"
    ref = counter.after.remote(str(gate))
    seen: list[Any] = []
    result = installed.AsyncResult(ref.task_id())
    value = result.get(SECONDS, on_message=seen.append, on_interval=gate.touch)
    assert value == "after the gate"
    assert [meta["status"] for meta in seen] == ["SUCCESS"]


def test_without_the_key_a_call_s_result_is_refused_with_what_to_do(
    brokers: PrivateCluster,
) -> None:
    counter = Counter.remote()
    ref = counter.increment.remote()
    assert ray.get(ref, timeout=SECONDS) == 1
    with make_app(brokers, "keyless") as app:
        result = app.AsyncResult(ref.task_id())
        with pytest.raises(ConfigurationError, match="CELERY_ACTORS_KEY_FILE"):
            result.get(timeout=SECONDS)
        result.forget()
