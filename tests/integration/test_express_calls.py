"""Calls by express: what a caller and an actor of one machine gain, and that nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from amqp.exceptions import NotFound
from celery import Celery
from waiting import wait_until, wait_until_alive

import celery_actors as ray
from celery_actors.client import express as express_module
from celery_actors.client import outbox as outbox_module
from celery_actors.client.current import require_process
from celery_actors.exceptions import ActorUnavailableError
from celery_actors.handle import actor_id_of
from celery_actors.ids import NO_INCARNATION, actor_hostname, mailbox_name
from celery_actors.local import PrivateCluster
from celery_actors.store.express import express_path

SECONDS = 60


@ray.remote(num_cpus=0)
class Log:
    def __init__(self) -> None:
        self.entries: list[Any] = []

    def add(self, entry: Any) -> int:
        self.entries.append(entry)
        return len(self.entries)

    def all(self) -> list[Any]:
        return self.entries

    def hold(self, started: str, gate: str) -> None:
        Path(started).touch()
        while not Path(gate).exists():
            time.sleep(0.005)

    def write(self, path: str) -> None:
        Path(path).touch()

    def leave(self) -> None:
        ray.actor.exit_actor()

    def knows_itself(self) -> bool:
        return ray.get_runtime_context().current_actor is not None

    def die(self, path: str) -> None:
        with Path(path).open("a") as file:
            file.write("begun\n")
        os.kill(os.getpid(), signal.SIGKILL)


@ray.remote
class Reader:
    def count(self, log: ray.ActorHandle[Log]) -> int:
        return len(ray.get(log.all.remote()))


def socket_of(actor: ray.ActorHandle[Any]) -> Path:
    """Where an actor's socket is."""
    incarnation = bytes.fromhex(wait_until_alive(actor).incarnation)
    return express_path(Path(require_process().settings.shared_memory_dir), incarnation)


def mailbox(actor: ray.ActorHandle[Any], app: Celery) -> dict[str, int]:
    """What came into an actor's mailbox."""
    record = wait_until_alive(actor)
    host = next(n["NodeManagerHostname"] for n in ray.nodes() if n["NodeID"] == record.node_id)
    name = actor_hostname(record.class_name, record.actor_id, host)
    answers = app.control.inspect([name], timeout=SECONDS).stats() or {}  # ends with the answer
    counts: dict[str, int] = answers[name]["mailbox"]
    return counts


def messages(actor: ray.ActorHandle[Any], app: Celery) -> int:
    """How many messages lie in an actor's queue, delivered ones not counted."""
    with app.connection_for_read() as connection:
        queue = mailbox_name(actor_id_of(actor))
        return int(connection.default_channel.queue_declare(queue, passive=True).message_count)


def queue_exists(queue: str, app: Celery) -> bool:
    """Whether there is a queue of that name."""
    with app.connection_for_read() as connection:
        try:
            connection.default_channel.queue_declare(queue, passive=True)
        except NotFound:
            return False
    return True


@pytest.fixture
def app(cluster: object, brokers: PrivateCluster) -> Any:
    made = Celery("monitor", broker=brokers.address.broker_url, set_as_current=False)
    yield made
    made.close()


@pytest.mark.usefixtures("cluster")
def test_synchronous_calls_go_by_express_and_lie_in_the_mailbox_too(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Long enough for several calls, however slow the machine is.
    monkeypatch.setattr(express_module, "_TOGETHER", 1.0)
    monkeypatch.setattr(express_module.Express, "catch_up", lambda _: None)
    log = Log.remote()
    assert ray.get(log.add.remote(0), timeout=SECONDS) == 1
    calls, process = 300, require_process()
    before = process.mailbox.messages
    for number in range(1, calls):
        assert ray.get(log.add.remote(number), timeout=SECONDS) == number + 1
    assert ray.get(log.all.remote(), timeout=SECONDS) == list(range(calls))
    assert process.mailbox.messages - before < calls / 2, "several calls a message"
    counts = mailbox(log, app)
    assert counts["express"] > calls / 2  # the first may not know yet, the rest may wait unread
    # On a slow machine some may have been sent again, for want of progress.
    assert (counts["executed"], counts["gaps"]) == (calls + 1, 0)
    express = process.sender.express
    wait_until(lambda: not express._behind, "all calls to lie in the mailbox")
    wait_until(lambda: messages(log, app) == 0, "the mailbox to be empty")


def hold_up(queue: str, app: Celery, folder: Path) -> Path:
    """Make an actor busy, which nobody else can call; it goes on when the file is there."""
    started, gate = folder / "started", folder / "gate"
    app.send_task("Log.hold", [str(started), str(gate)], queue=queue, ignore_result=True)
    wait_until(started.exists, "the actor to be busy")
    return gate


@pytest.mark.usefixtures("cluster")
def test_an_actor_that_is_busy_finds_the_call_in_its_mailbox(
    app: Celery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However long the actor is held up, no call is sent again, which would be a repeat.
    monkeypatch.setattr(outbox_module, "_RESEND_FIRST", SECONDS)
    log, express = Log.remote(), require_process().sender.express
    ray.get(log.add.remote("first"), timeout=SECONDS)
    gate = hold_up(mailbox_name(actor_id_of(log)), app, tmp_path)
    ref = log.add.remote("second")
    assert ray.wait([ref], timeout=0.05) == ([], [ref])
    assert not express._behind, "who waits sends it behind"
    gate.touch()
    assert ray.get(ref, timeout=SECONDS) == 2
    assert ray.get(log.all.remote(), timeout=SECONDS) == ["first", "second"]
    counts = mailbox(log, app)
    assert (counts["repeats"], counts["gaps"]) == (0, 0)


@pytest.mark.usefixtures("cluster")
def test_what_was_sent_before_is_seen_by_who_is_told_after() -> None:
    """By express no call overtakes one that was sent by a mailbox: the actor has two callers."""
    log, reader = Log.remote(), Reader.remote()
    ray.get([log.add.remote("first"), reader.count.remote(log)], timeout=SECONDS)
    total = 1
    for number in range(300):
        for _ in range(number % 3 + 1):  # one goes by express, several by the mailbox
            log.add.remote(number)
            total += 1
        assert ray.get(reader.count.remote(log), timeout=SECONDS) == total


@pytest.mark.usefixtures("cluster")
def test_none_goes_by_express_while_one_is_under_way_to_who_others_can_call(
    app: Celery, tmp_path: Path
) -> None:
    log, other, reader = Log.remote(), Log.remote(), Reader.remote()
    ray.get([log.add.remote(0), reader.count.remote(log)], timeout=SECONDS)

    def by_express() -> int:
        ray.get(other.add.remote(0), timeout=SECONDS)
        return mailbox(other, app)["express"]

    wait_until(by_express, "a call to go by express")
    started, gate = tmp_path / "started", tmp_path / "gate"
    holding = log.hold.remote(str(started), str(gate))
    wait_until(started.exists, "the call to be under way")
    before = mailbox(other, app)["express"]
    for number in range(20):
        ray.get(other.add.remote(number), timeout=SECONDS)
    assert mailbox(other, app)["express"] == before
    gate.touch()
    ray.get(holding, timeout=SECONDS)
    wait_until(lambda: by_express() > before, "a call to go by express again")


@pytest.mark.usefixtures("cluster")
def test_a_call_that_was_begun_so_is_not_run_again(tmp_path: Path) -> None:
    log = Log.options(max_restarts=-1).remote()
    ray.get(log.add.remote(1), timeout=SECONDS)
    first = socket_of(log)
    begun = tmp_path / "begun"
    with pytest.raises(ActorUnavailableError):
        ray.get(log.die.remote(str(begun)), timeout=SECONDS)
    assert ray.get(log.add.remote(1), timeout=SECONDS) == 1
    assert begun.read_text() == "begun\n"
    assert socket_of(log) != first


@pytest.mark.usefixtures("cluster")
def test_an_actor_that_ends_leaves_no_socket() -> None:
    log = Log.remote()
    ray.get(log.add.remote(1), timeout=SECONDS)
    path = socket_of(log)
    assert path.is_socket()
    del log
    wait_until(lambda: not path.exists(), "the socket to be removed")


@pytest.mark.usefixtures("cluster")
def test_nothing_that_is_not_signed_is_taken(app: Celery) -> None:
    log = Log.remote()
    ray.get(log.add.remote(1), timeout=SECONDS)
    incarnation = bytes.fromhex(wait_until_alive(log).incarnation)
    sender = require_process().sender.express._sender
    assert sender.send(incarnation, b"garbage")
    wait_until(lambda: mailbox(log, app)["rejected"] == 1, "it to be rejected")
    assert ray.get(log.add.remote(2), timeout=SECONDS) == 2


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("how", ["passed", "put", "itself", "fork", "name"])
def test_an_actor_that_others_can_call_is_called_by_its_mailbox(app: Celery, how: str) -> None:
    log = Log.options(name="known" if how == "name" else None).remote()

    def by_express() -> int:
        ray.get(log.add.remote(1), timeout=SECONDS)
        return mailbox(log, app)["express"]

    by_express()
    if how != "name":
        wait_until(by_express, "a call to go by express")  # just after its start none does
    if how == "passed":
        assert ray.get(Reader.remote().count.remote(log), timeout=SECONDS) > 0
    elif how == "put":
        kept = ray.put([log])
        assert ray.get(kept) == [log]
    elif how == "itself":
        assert ray.get(log.knows_itself.remote(), timeout=SECONDS)
    elif how == "fork":
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
    before = mailbox(log, app)["express"]
    for number in range(10):
        ray.get(log.add.remote(number), timeout=SECONDS)
    assert mailbox(log, app)["express"] == before


PROGRAM = """
import sys
import celery_actors as ray
from celery_actors.client.current import require_process
from celery_actors.handle import actor_id_of
from celery_actors.ids import mailbox_name
from test_express_calls import Log

ray.init(runtime_env={"env_vars": {"PYTHONPATH": sys.path[0]}})
log = Log.options(lifetime="detached").remote()
ray.get(log.add.remote("known"))
print(mailbox_name(actor_id_of(log)), require_process().caller.hex(), flush=True)
input()
log.write.remote(sys.argv[1])
"""


@pytest.mark.usefixtures("cluster")
def test_a_caller_that_leaves_has_its_calls_in_the_mailbox(
    brokers: PrivateCluster, app: Celery, tmp_path: Path
) -> None:
    """It sends one, to an actor that is busy, and is gone before that reads it."""
    written = tmp_path / "written"
    folders = os.pathsep.join(path for path in sys.path if path)
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(written)],
        env={**os.environ, **brokers.address.environment(), "PYTHONPATH": folders},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    queue, caller = program.stdout.readline().split()
    gate = hold_up(queue, app, tmp_path)
    program.communicate("\n", timeout=SECONDS)
    assert program.returncode == 0
    gate.touch()
    wait_until(written.exists, "the last call of the program")
    app.send_task("Log.leave", queue=queue, ignore_result=True)
    wait_until(lambda: not queue_exists(queue, app), "the end of the actor")
    process = require_process()
    process.redis.delete(process.results.block(bytes.fromhex(caller), 0))  # a result of nobody's


@pytest.mark.usefixtures("cluster")
def test_a_caller_can_turn_it_off(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    process = require_process()
    monkeypatch.setattr(process, "settings", replace(process.settings, express=False))
    log = Log.remote()
    for number in range(1, 20):
        assert ray.get(log.add.remote(number), timeout=SECONDS) == number
    assert mailbox(log, app)["express"] == 0


WITHOUT = """
import os
from celery import Celery
import celery_actors

app = Celery("without")
app.conf.result_backend = os.environ["CELERY_RESULT_BACKEND"]
app.conf.actors_express = False
celery_actors.install(app)
"""


@pytest.mark.usefixtures("cluster")
def test_a_node_can_turn_it_off(brokers: PrivateCluster, tmp_path: Path) -> None:
    (tmp_path / "without.py").write_text(WITHOUT)
    options = ["-n", "without@%h", "--node-name", "without", "--resources", '{"without": 1}']
    with (tmp_path / "log").open("wb") as output:
        node = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "without", "worker", "-c", "1", *options],
            cwd=tmp_path,
            env={**os.environ, **brokers.address.environment()},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: ray.cluster_resources().get("without"), "the node")
        log = Log.options(resources={"without": 1}).remote()
        for number in range(1, 20):
            assert ray.get(log.add.remote(number), timeout=SECONDS) == number
        assert require_process().outboxes[actor_id_of(log)].express == NO_INCARNATION
        assert not socket_of(log).exists()
    finally:
        node.terminate()
        node.wait(SECONDS)
