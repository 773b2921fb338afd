"""What plain Celery clients ask of actors, beyond arguments and a result."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, chain, chord, group
from celery.exceptions import ChordError, TaskRevokedError
from celery.result import GroupResult
from kombu.utils.json import register_type
from waiting import wait_until

import celery_actors as ray
from celery_actors.handle import actor_id_of
from celery_actors.ids import mailbox_name
from celery_actors.local import PrivateCluster

pytestmark = [
    pytest.mark.usefixtures("cluster"),
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery's
]

SECONDS = 60


@ray.remote
class Actor:
    def __init__(self) -> None:
        self.ran: list[Any] = []

    def kind(self, value: Any) -> str:
        return type(value).__name__

    def same(self, value: Any) -> Any:
        return value

    def note(self, what: Any, by: int = 0) -> Any:
        self.ran.append(what)
        return what

    def all(self) -> list[Any]:
        return self.ran

    def wait(self, gate: str) -> str:
        self.ran.append("waits")
        Path(f"{gate}.{len(self.ran)}").touch()
        wait_until(lambda: Path(gate).exists(), "the gate")
        return "waited"

    def fail(self) -> None:
        raise ValueError("no such thing", 5)


class AsyncActor(Actor.__wrapped__):  # type: ignore[misc, name-defined]
    async def nothing(self) -> None:
        """It makes this an asyncio actor."""


KINDS = {
    "serial": Actor,
    "threaded": Actor.options(max_concurrency=2),
    "asyncio": ray.remote(AsyncActor),
}

TASKS = """
import os
from celery import Celery
import celery_actors

app = Celery("shop", broker=os.environ["CELERY_BROKER_URL"])
app.conf.result_backend = os.environ["CELERY_RESULT_BACKEND"]
app.conf.task_default_queue = os.environ["SHOP_QUEUE"]
app.conf.update(eval(os.environ["SHOP_SETTINGS"]))
celery_actors.install(app)

@app.task
def double(n):
    return 2 * n

@app.task
def total(numbers):
    return sum(numbers)

@app.task
def note(*args):
    open(os.environ["SHOP_NOTES"], "a").write("noted\\n")
"""


@contextmanager
def client(brokers: PrivateCluster, **settings: Any) -> Iterator[Celery]:
    """An app that has never heard of this package."""
    address = brokers.address
    with Celery("client", broker=address.broker_url, set_as_current=False) as app:
        app.conf.result_backend = address.result_backend
        app.conf.update(settings)
        yield app
        gc.collect()  # results unsubscribe when they are collected, and would connect again
        app.backend.result_consumer.stop()
        app.backend.client.connection_pool.disconnect()


@pytest.fixture(scope="module", autouse=True)
def no_keys_left(brokers: PrivateCluster, nothing_left: None) -> Iterator[None]:
    """Results that nobody forgets would be kept for a day."""
    yield
    with redis.Redis.from_url(brokers.address.result_backend) as store:
        for key in [*store.scan_iter("celery-task*"), *store.scan_iter("shop_*")]:
            store.delete(key)


@pytest.fixture(scope="module")
def app(brokers: PrivateCluster) -> Iterator[Celery]:
    with client(brokers) as made:
        yield made


def queue_of(actor: Any) -> str:
    return mailbox_name(actor_id_of(actor))


def monitored_name(app: Celery, actor: Any) -> str:
    """The name under which Celery's tools see an actor, once it answers them."""
    short = f".{actor_id_of(actor).hex()[:8]}@"

    def look() -> str | None:
        answers = app.control.inspect(timeout=1).ping() or {}
        return next((name for name in answers if short in name), None)

    return wait_until(look, "an answer of the actor") or ""


@contextmanager
def shop(
    brokers: PrivateCluster, folder: Path, settings: dict[str, Any], node: str
) -> Iterator[str]:
    """A worker of an app with these settings, which is also a node; yields its queue."""
    (folder / "shop_tasks.py").write_text(TASKS)
    queue = f"celery_{node}_{os.getpid()}"
    options = ["-P", "threads", "-c", "2", "-n", f"{node}@%h", "--node-name", node]
    options += ["--num-cpus", "1", "--resources", f'{{"{node}": 10}}', "--without-mingle"]
    with (folder / "log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "shop_tasks", "worker", *options],
            cwd=folder,
            env={
                **os.environ,
                **brokers.address.environment(),
                "C_FORCE_ROOT": "1",  # else a worker that accepts pickles won't run as root
                "SHOP_QUEUE": queue,
                "SHOP_SETTINGS": repr(settings),
                "SHOP_NOTES": str(folder / "notes"),
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: ray.cluster_resources().get(node), f"node {node}", 90)
        yield queue
    finally:
        worker.terminate()
        worker.wait(SECONDS)
        with client(brokers) as app, app.connection_for_write() as connection:
            connection.default_channel.queue_delete(queue)
            connection.default_channel.exchange_delete(queue)


# -- values -----------------------------------------------------------------------------

VALUES = [
    datetime(2024, 5, 1, 12, tzinfo=timezone.utc),
    datetime(2024, 5, 1, 12),
    date(2024, 5, 1),
    time(12, 30, 15),
    uuid.UUID(int=5),
    Decimal("1.50"),
    b"ab",
    b"ab\xff",
    [{"at": date(2024, 5, 1)}, [Decimal("2.5"), None, True, "text", 1.5]],
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_what_celerys_json_carries_goes_both_ways(app: Celery, value: Any) -> None:
    actor = Actor.remote()
    queue = queue_of(actor)
    kind = app.send_task("Actor.kind", [value], queue=queue)
    assert kind.get(SECONDS) == type(value).__name__
    back = app.send_task("Actor.same", kwargs={"value": value}, queue=queue)
    assert back.get(SECONDS) == value
    nested = app.send_task("Actor.same", [{"deep": [value]}], queue=queue)
    assert nested.get(SECONDS) == {"deep": [value]}


class Point:
    """A type that only this process has registered."""


def test_a_type_that_the_actor_does_not_know_harms_nobody(app: Celery) -> None:
    register_type(Point, "test_point", lambda _: "a point", lambda _: Point())
    actor = Actor.remote()
    app.send_task("Actor.note", [Point()], queue=queue_of(actor))
    after = app.send_task("Actor.note", ["after"], queue=queue_of(actor))
    assert after.get(SECONDS) == "after"
    assert ray.get(actor.all.remote()) == ["after"]


@pytest.mark.parametrize("compression", ["zlib", "bzip2"])
@pytest.mark.parametrize("protocol", [1, 2])
def test_messages_in_every_form(brokers: PrivateCluster, compression: str, protocol: int) -> None:
    actor = Actor.remote()
    settings = {"task_compression": compression, "task_protocol": protocol}
    with client(brokers, **settings) as app:
        value = ["x" * 10_000, date(2024, 5, 1)]
        result = app.send_task("Actor.same", [value], queue=queue_of(actor), priority=5)
        assert result.get(SECONDS) == value


# -- settings of the app that keeps results -----------------------------------------------


@pytest.mark.parametrize(
    ("node", "settings"),
    [
        ("prefix", {"result_backend_transport_options": {"global_keyprefix": "shop_"}}),
        ("expires", {"result_expires": 7200, "result_failure_expires": 100}),
        ("never", {"result_expires": None}),
        ("pickled", {"result_serializer": "pickle", "accept_content": ["json", "pickle"]}),
        ("compressed", {"result_compression": "zlib", "result_extended": True}),
    ],
)
def test_results_are_kept_as_the_app_keeps_its_own(
    brokers: PrivateCluster, tmp_path: Path, node: str, settings: dict[str, Any]
) -> None:
    with (
        shop(brokers, tmp_path, settings, node) as queue,
        client(brokers, **settings) as app,
        redis.Redis.from_url(brokers.address.result_backend) as store,
    ):
        assert app.send_task("shop_tasks.double", [2], queue=queue).get(SECONDS) == 4
        actor = Actor.options(resources={node: 1}).remote()
        result = app.send_task("Actor.same", [[1, 2]], queue=queue_of(actor))
        assert result.get(SECONDS) == [1, 2]
        failed = app.send_task("Actor.fail", queue=queue_of(actor))
        with pytest.raises(ValueError, match="no such thing") as caught:
            failed.get(SECONDS)
        assert caught.value.args == ("no such thing", 5)
        if node == "prefix":
            assert store.exists(f"shop_celery-task-meta-{result.id}")
        left = [store.ttl(app.backend.get_key_for_task(each.id)) for each in (result, failed)]
        expected = {"expires": (7200, 100), "never": (-1, -1)}.get(node, (86400, 86400))
        for seconds, most in zip(left, expected, strict=True):
            assert most - 60 <= seconds <= most
        if node == "compressed":
            assert (result.name, result.args) == ("Actor.same", [[1, 2]])
            assert result.worker.startswith("Actor.")
        assert result.date_done is not None


# -- what is not run ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_expired_and_revoked_calls_do_not_run(app: Celery, tmp_path: Path, kind: str) -> None:
    actor, gate = KINDS[kind].remote(), tmp_path / "gate"
    queue = queue_of(actor)
    at_once = 2 if kind == "threaded" else 1
    waiting = [actor.wait.remote(str(gate)) for _ in range(at_once)]
    wait_until(lambda: len(list(tmp_path.glob("gate.*"))) == at_once, "calls that hold up others")
    now = datetime.now(timezone.utc)
    # As of a message that waited in the broker: a client's own check would refuse it.
    past = {"expires": (now - timedelta(seconds=1)).isoformat()}
    expired = app.send_task("Actor.note", ["expired"], queue=queue, headers=past)
    later = app.send_task("Actor.note", ["later"], queue=queue, expires=now + timedelta(hours=1))
    revoked = app.send_task("Actor.note", ["revoked"], queue=queue)
    stamped = app.send_task(
        "Actor.note", ["stamped"], queue=queue, stamped_headers=["order"], order="17"
    )
    name = monitored_name(app, actor)
    # Each ends with the answer; on a slow machine it takes longer than Celery's second.
    answered = {"destination": [name], "reply": True, "timeout": SECONDS}
    assert app.control.revoke(revoked.id, **answered)
    assert app.control.revoke_by_stamped_headers({"order": ["17"]}, **answered)
    gate.touch()
    assert later.get(SECONDS) == "later"
    for result, why in ((expired, "expired"), (revoked, "revoked"), (stamped, "revoked")):
        with pytest.raises(TaskRevokedError, match=why):
            result.get(SECONDS)
        assert result.state == "REVOKED"
    assert ray.get(waiting, timeout=SECONDS) == ["waited"] * at_once
    ran = [what for what in ray.get(actor.all.remote()) if what != "waits"]
    assert ran == ["later"]


def test_a_call_that_runs_is_not_terminated(app: Celery, tmp_path: Path) -> None:
    actor, gate = Actor.remote(), tmp_path / "gate"
    result = app.send_task("Actor.wait", [str(gate)], queue=queue_of(actor))
    wait_until(Path(f"{gate}.1").exists, "the call to run")
    name = monitored_name(app, actor)
    answered = {"destination": [name], "reply": True, "timeout": SECONDS}
    said = app.control.revoke(result.id, terminate=True, **answered)
    assert "not terminated" in said[0][name]["ok"]
    gate.touch()
    assert result.get(SECONDS) == "waited"
    assert ray.get(actor.all.remote()) == ["waits"]


@pytest.mark.parametrize(
    "options",
    [
        {"countdown": 60},
        {"eta": datetime(2040, 1, 1, tzinfo=timezone.utc)},
        {"time_limit": 5},
        {"soft_time_limit": 5},
        {"retries": 1},
    ],
    ids=repr,
)
def test_what_actors_do_not_do_is_a_failure(app: Celery, options: dict[str, Any]) -> None:
    actor = Actor.remote()
    result = app.send_task("Actor.note", ["it"], queue=queue_of(actor), **options)
    with pytest.raises(NotImplementedError, match="is not supported on a call to an actor"):
        result.get(SECONDS)
    assert ray.get(actor.all.remote()) == []


# -- canvas -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tasks(brokers: PrivateCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with shop(brokers, tmp_path_factory.mktemp("tasks"), {}, "tasks") as queue:
        yield queue


@pytest.mark.parametrize("kind", KINDS)
def test_canvas_with_a_call_works_or_fails_and_never_hangs(
    app: Celery, tasks: str, kind: str
) -> None:
    actor = KINDS[kind].remote()

    def task(name: str, *args: Any) -> Any:
        return app.signature(f"shop_tasks.{name}", args=args, options={"queue": tasks})

    def call(*args: Any, name: str = "note") -> Any:
        return app.signature(f"Actor.{name}", args=args, options={"queue": queue_of(actor)})

    works: list[tuple[Any, Any]] = [
        (group(task("double", 1), call(4)), [2, 4]),
        (chain(task("double", 2), call()), 4),
        (chord([task("double", 1), task("double", 2)], call()), [2, 4]),
        (group([call(1), call(2)]), [1, 2]),
    ]
    for canvas, expected in works:
        assert canvas.apply_async().get(SECONDS) == expected
    fails: list[tuple[Any, type[Exception], str | None]] = [
        (chain(call(2), task("double")), NotImplementedError, "chain"),
        (chain(call(2), task("double"), task("double")), NotImplementedError, "chain"),
        (chord([task("double", 1), call(4)], task("total")), ChordError, "chord"),
        (chord([call(1), call(4)], task("total")), ChordError, "chord"),
        (chord([chain(task("double", 1), call()), call(2)], task("total")), ChordError, "chord"),
        (chord([group([call(1), call(2)]), call(3)], task("total")), ChordError, "chord"),
        (chord([task("double", 1), call(4)], call()), ChordError, "chord"),
        (chord([task("double", 1)], call(name="fail")), TypeError, "argument"),
        (chord([task("double", 1), call(4)], group([task("total"), call()])), Exception, None),
        (chord([task("double", 1), call(4, name="absent")], task("total")), ChordError, "chord"),
    ]
    for canvas, kind_of_error, says in fails:
        made = canvas.apply_async()
        # A result made anew does not look at the results before it.
        result = made if isinstance(made, GroupResult) else app.AsyncResult(made.id)
        with pytest.raises(kind_of_error, match=says):
            result.get(SECONDS)


def test_a_revoked_part_of_a_chord_fails_its_body(app: Celery, tasks: str) -> None:
    actor = Actor.remote()
    part = app.signature("Actor.note", args=[1], options={"queue": queue_of(actor)})
    part.set(headers={"expires": "2020-01-01T00:00:00+00:00"})
    total = app.signature("shop_tasks.total", options={"queue": tasks})
    made = chord([part, part.clone()], total).apply_async()
    with pytest.raises(ChordError):
        app.AsyncResult(made.id).get(SECONDS)
    assert ray.get(actor.all.remote()) == []


def test_link_error_is_called_of_what_is_refused(
    app: Celery, tasks: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    actor = Actor.remote()
    notes = next(tmp_path_factory.getbasetemp().glob("tasks*/log")).parent / "notes"
    told = app.signature("shop_tasks.note", options={"queue": tasks})
    result = app.send_task("Actor.note", [1], queue=queue_of(actor), countdown=9, link_error=told)
    with pytest.raises(NotImplementedError, match="countdown"):
        result.get(SECONDS)
    wait_until(notes.exists, "link_error called")
