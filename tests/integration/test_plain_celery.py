"""Plain Celery clients call actors, and apps of their own become nodes by install()."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.app.defaults import DEFAULTS
from celery.canvas import Signature
from counting import Counting
from fixture_types import StartNode
from waiting import wait_for_state, wait_until

import celery_actors as ray
from celery_actors.handle import actor_id_of
from celery_actors.ids import mailbox_name
from celery_actors.local import PrivateCluster
from celery_actors.session import SessionInfo

pytestmark = pytest.mark.usefixtures("cluster")

SECONDS = 60


@ray.remote
class Counter(Counting):
    def unserializable(self) -> Any:
        return object()

    def _private(self) -> str:
        return "secret"


class OwnError(Exception):
    pass


@ray.remote
class Own:
    def fail(self) -> None:
        raise OwnError("mine")


@pytest.fixture(scope="module")
def stock(brokers: PrivateCluster) -> Iterator[Celery]:
    """An app that has never heard of this package."""
    address = brokers.address
    app = Celery("stock", broker=address.broker_url, backend=address.result_backend)
    app.conf.update(result_expires=60)
    yield app
    app.close()
    gc.collect()  # results unsubscribe when they are collected: while Redis is there


@pytest.fixture(scope="module")
def installed(brokers: PrivateCluster) -> Iterator[Celery]:
    address = brokers.address
    app = Celery("shop", broker=address.broker_url, backend=address.result_backend)
    app.conf.actors_key_file = str(address.key_file)
    app.conf.actors_shared_memory_dir = str(address.shared_memory_dir)
    ray.install(app)
    yield app
    app.close()
    gc.collect()


def queue_of(actor: Any) -> str:
    return mailbox_name(actor_id_of(actor))


@pytest.fixture(params=["stock", "installed"])
def app(request: pytest.FixtureRequest) -> Celery:
    chosen: Celery = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture
def call(app: Celery) -> Iterator[Callable[..., Any]]:
    """Sends a call, and has its result forgotten in the end."""
    results = []

    def send(actor: Any, method: str, *args: Any, **options: Any) -> Any:
        result = app.send_task(f"Counter.{method}", args, queue=queue_of(actor), **options)
        results.append(result)
        return result

    yield send
    for result in results:
        result.forget()


def test_whatever_a_method_raises_is_stored_as_a_failure(call: Callable[..., Any]) -> None:
    class Stop(BaseException):
        def __str__(self) -> str:
            raise self

    class Raising:
        def fail(self, name: str) -> Any:
            raise {"stop": Stop, "ctrl-c": KeyboardInterrupt, "leave": SystemExit}[name]()

        def ok(self) -> str:
            return "ok"

    class OnLoop(Raising):
        async def nothing(self) -> None:
            pass

    for kind in (ray.remote(Raising), ray.remote(max_concurrency=2)(Raising), ray.remote(OnLoop)):
        actor = kind.remote()
        for name, shown in (("stop", "Stop"), ("ctrl-c", "KeyboardInterrupt")):
            result = call(actor, "fail", name)
            wait_until(result.ready, f"the failure of {name}")
            assert result.status == "FAILURE"
            assert shown in result.traceback
        assert call(actor, "ok").get(timeout=SECONDS) == "ok"
        result = call(actor, "fail", "leave")
        wait_until(result.ready, "the failure of the call that ended its actor")
        assert "sys.exit() in" in result.traceback
        wait_for_state(actor, "DEAD")


def test_send_task_and_get(call: Callable[..., Any]) -> None:
    counter = Counter.remote()
    assert call(counter, "increment").get(timeout=SECONDS) == 1
    assert ray.get(counter.increment.remote()) == 2
    assert call(counter, "increment", 5).get(timeout=SECONDS) == 7
    result = call(counter, "increment", kwargs={"by": 3})
    assert result.get(timeout=SECONDS) == 10
    assert result.successful()
    assert result.status == "SUCCESS"


def test_many_calls_keep_their_order(call: Callable[..., Any]) -> None:
    counter = Counter.remote()
    results = [call(counter, "increment") for _ in range(50)]
    assert [result.get(timeout=SECONDS) for result in results] == list(range(1, 51))


def test_what_a_method_raises(call: Callable[..., Any]) -> None:
    counter = Counter.remote()
    result = call(counter, "fail")
    with pytest.raises(ValueError, match="no such thing"):
        result.get(timeout=SECONDS)
    assert result.status == "FAILURE"
    assert 'raise ValueError("no such thing", 5)' in result.traceback
    with pytest.raises(Exception, match="JSON"):
        call(counter, "unserializable").get(timeout=SECONDS)
    with pytest.raises(TypeError, match="positional"):
        call(counter, "increment", 1, 2, 3).get(timeout=SECONDS)
    assert call(counter, "increment").get(timeout=SECONDS) == 1


def test_an_exception_class_that_the_client_does_not_have(stock: Celery) -> None:
    own = Own.remote()
    result = stock.send_task("Own.fail", queue=queue_of(own))
    with pytest.raises(Exception, match="mine") as caught:
        result.get(timeout=SECONDS)
    assert type(caught.value).__name__ == "OwnError"
    result.forget()


def test_private_and_unknown_methods_are_refused(call: Callable[..., Any]) -> None:
    counter = Counter.remote()
    for name in ("_private", "__init__", "__class__", "__ray_call__", "value", "absent"):
        result = call(counter, name)
        with pytest.raises(Exception, match="public methods only"):
            result.get(timeout=SECONDS)
        assert result.status == "FAILURE"
    assert call(counter, "increment").get(timeout=SECONDS) == 1


def test_what_actors_do_not_support_is_a_failure_with_its_reason(call: Callable[..., Any]) -> None:
    counter = Counter.remote()
    # As link_error it is called, with the id of what was refused: no number.
    how = {"queue": queue_of(counter), "ignore_result": True}
    other = Signature("Counter.increment", options=how)
    for options, says in (
        ({"countdown": 60}, "eta/countdown"),
        ({"link": other}, "link"),
        ({"link_error": other}, "link_error"),
        ({"chain": [other]}, "chain"),
    ):
        result = call(counter, "increment", **options)
        with pytest.raises(NotImplementedError, match=says):
            result.get(timeout=SECONDS)
    assert ray.get(counter.increment.remote()) == 1, "none of them ran"


def test_results_of_actors_are_read_through_an_installed_app(installed: Celery) -> None:
    counter = Counter.remote()
    ref = counter.increment.remote(4)
    assert installed.AsyncResult(ref.task_id()).get(timeout=SECONDS) == 4
    assert installed.AsyncResult(ref.task_id()).status == "SUCCESS"
    failed = counter.fail.remote()
    with pytest.raises(ValueError, match="no such thing"):
        installed.AsyncResult(failed.task_id()).get(timeout=SECONDS)
    assert installed.AsyncResult(failed.task_id()).failed()
    task = ray.remote(lambda: "of a task").remote()
    assert installed.AsyncResult(task.task_id()).get(timeout=SECONDS) == "of a task"


def test_install_leaves_the_settings_alone() -> None:
    settings = {"task_serializer": "yaml", "task_default_queue": "shop", "timezone": "Asia/Tokyo"}
    app = Celery("shop", broker="amqp://h//", backend="redis://h/0", set_as_current=False)
    app.conf.update(settings)
    plain = Celery("shop", broker="amqp://h//", backend="redis://h/0", set_as_current=False)
    plain.conf.update(settings)
    assert ray.install(app) is app
    for name in DEFAULTS:
        assert app.conf[name] == plain.conf[name], name


SHOP = """
import os
from celery import Celery
import celery_actors

app = Celery("shop")  # the brokers are those of the environment
app.conf.result_backend = os.environ["CELERY_RESULT_BACKEND"]
app.conf.task_default_queue = os.environ["SHOP_QUEUE"]
app.conf.worker_prefetch_multiplier = 1
app.conf.actors_allow_plain = os.environ.get("ALLOW_PLAIN", "1") == "1"
celery_actors.install(app)

@app.task
def price(item):
    return len(item)
"""


@pytest.fixture
def start_shop(brokers: PrivateCluster, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Starts a worker of a user's own app, which is a node too."""
    (tmp_path / "shop_app.py").write_text(SHOP)
    started: list[subprocess.Popen[bytes]] = []
    queue = f"celery_shop_{os.getpid()}"

    def start(env: Mapping[str, str]) -> str:
        options = ["-n", "shop@%h", "-c", "1", "--node-name", "shop", "--num-cpus", "1"]
        options += ["--resources", '{"shop": 10}']
        with (tmp_path / "log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "shop_app", "worker", *options],
                cwd=tmp_path,
                env={**os.environ, **brokers.address.environment(), "SHOP_QUEUE": queue, **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        started.append(worker)
        wait_until(lambda: ray.cluster_resources().get("shop"), "the shop's node")
        return queue

    yield start
    for worker in started:
        worker.terminate()
        assert worker.wait(SECONDS) is not None
    import amqp

    with amqp.Connection(
        brokers.address.broker_url.partition("@")[2].strip("/"),
        **_login(brokers.address.broker_url),
    ) as connection:
        connection.channel().queue_delete(queue)
        connection.channel().exchange_delete(queue)


def _login(url: str) -> dict[str, str]:
    user, _, password = url.partition("://")[2].rpartition("@")[0].partition(":")
    return {"userid": user, "password": password}


def test_a_worker_of_ones_own_app_is_a_node_and_runs_its_tasks(
    start_shop: Callable[..., str], stock: Celery
) -> None:
    queue = start_shop({})
    result = stock.send_task("shop_app.price", ["apple"], queue=queue)
    assert result.get(timeout=SECONDS) == 5
    result.forget()
    counter = Counter.options(resources={"shop": 1}).remote()
    assert ray.get(counter.increment.remote(), timeout=SECONDS) == 1
    plain = stock.send_task("Counter.increment", queue=queue_of(counter))
    assert plain.get(timeout=SECONDS) == 2
    plain.forget()


def test_plain_calls_can_be_turned_off(start_shop: Callable[..., str], stock: Celery) -> None:
    start_shop({"ALLOW_PLAIN": "0"})
    counter = Counter.options(resources={"shop": 1}).remote()
    assert ray.get(counter.increment.remote(), timeout=SECONDS) == 1
    stock.send_task("Counter.increment", queue=queue_of(counter), ignore_result=True)
    # Behind the plain one in the same queue:
    assert ray.get(counter.increment.remote(), timeout=SECONDS) == 2


def test_the_node_says_who_it_is(
    start_node: StartNode, cluster: SessionInfo, stock: Celery
) -> None:
    def names() -> set[str]:
        stats = stock.control.inspect(timeout=2).stats() or {}
        return {told["actors_node"]["name"] for told in stats.values() if "actors_node" in told}

    wait_until(lambda: "one" in names(), "the node's answer")
