"""Brokers that are away, block or refuse for longer than a lease: calls wait, and nothing dies."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from chaos_actors import Log, Sink, fill, wait_for_file
from faults import LEASE, Program, ask_broker, gone, stopped, supervisorctl, wait_gone
from redis.backoff import NoBackoff
from redis.retry import Retry
from waiting import wait_until

import celery_actors as ray
from celery_actors.client import process as process_module
from celery_actors.client.current import require_process
from celery_actors.exceptions import ActorDiedError, ConnectionFailed
from celery_actors.local import PrivateCluster
from celery_actors.local.supervisor_client import program_states
from celery_actors.store.connection import connect_redis
from celery_actors.store.outage import is_outage

AFTER = 90.0
OUTAGE = LEASE + 4.0
"""Longer than a lease, and than the time in which it could have been renewed last."""
SHORT = 3.0


class Lives:
    """Actors whose processes and state are looked at before and after a fault."""

    def __init__(self, folder: Path) -> None:
        self.idle, self.busy = Log.remote(), Log.remote()
        self.pids = ray.get([self.idle.pid.remote(), self.busy.pid.remote()])
        assert ray.get(self.idle.add.remote("me", 0)) == 0
        self._node = ray.nodes()[0]["NodeID"]
        started, gate = folder / "started", folder / "gate"
        self._gate = gate
        self._running = self.busy.hold.remote(str(started), str(gate))
        wait_for_file(str(started))

    def end_the_running_call(self) -> None:
        self._gate.touch()

    def check(self) -> None:
        """Nothing has died; what ran, ended; calls go on where they were."""
        assert ray.get(self._running, timeout=AFTER) == str(self._gate)
        assert ray.get(self.idle.add.remote("me", 1), timeout=AFTER) == 1
        assert ray.get(self.idle.all.remote(), timeout=AFTER) == [("me", 0), ("me", 1)]
        assert ray.get([self.idle.pid.remote(), self.busy.pid.remote()]) == self.pids
        time.sleep(LEASE / 2)  # in which janitors look at all leases
        assert [node["NodeID"] for node in ray.nodes()] == [self._node]
        assert ray.get(self.idle.count.remote(), timeout=AFTER) == 2


@pytest.fixture
def lives(mortal: PrivateCluster, tmp_path: Path) -> Lives:
    return Lives(tmp_path)


@pytest.fixture
def operator(mortal: PrivateCluster) -> Iterator[redis.Redis]:
    """A connection to Redis that is open before the fault."""
    with connect_redis(mortal.address.result_backend) as client:
        client.ping()
        yield client


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def test_rabbitmq_away_for_longer_than_a_lease(
    lives: Lives, mortal: PrivateCluster, tmp_path: Path
) -> None:
    unwanted = Log.remote()
    unwanted_pid = ray.get(unwanted.pid.remote())
    started, gate = tmp_path / "caller", tmp_path / "gate of the caller"
    caller, log = Log.remote(), Log.remote()
    calls = caller.call_when_told.remote(str(started), str(gate), log, 3)
    wait_for_file(str(started))
    supervisorctl(mortal, "stop", "rabbitmq")
    lives.end_the_running_call()
    gate.touch()  # that actor's process has called nobody before
    waiting = lives.busy.add.remote("me", 7)
    new = Log.remote()  # is created as well as without RabbitMQ; its calls wait
    first = new.add.remote("me", 8)
    ray.kill(unwanted)
    with pytest.raises(ray.exceptions.GetTimeoutError):
        ray.get(waiting, timeout=0.5)
    assert ray.wait([waiting, first], num_returns=2, timeout=0.5) == ([], [waiting, first])
    time.sleep(OUTAGE)
    wait_gone([unwanted_pid], "an actor that was killed: its node needs no order")
    supervisorctl(mortal, "start", "rabbitmq")
    assert ray.get([waiting, first, calls], timeout=AFTER) == [7, 8, 3]
    lives.check()


@contextmanager
def memory_alarm(cluster: PrivateCluster) -> Iterator[None]:
    """RabbitMQ reads nothing of those who publish."""
    ask_broker(cluster.session_dir, "vm_memory_monitor:set_vm_memory_high_watermark(0.00001).")
    wait_until(
        lambda: "memory" in ask_broker(cluster.session_dir, "rabbit_alarm:get_alarms()."),
        "the alarm",
    )
    try:
        yield
    finally:
        ask_broker(cluster.session_dir, "vm_memory_monitor:set_vm_memory_high_watermark(0.9).")


def test_a_memory_alarm_for_longer_than_a_lease(lives: Lives, mortal: PrivateCluster) -> None:
    sinks = [Sink.remote() for _ in range(16)]
    ray.get([sink.all.remote() for sink in sinks])
    process = require_process()
    with memory_alarm(mortal):
        refs = fill(sinks, lambda: process.mailbox.is_behind)
        for _ in range(3):  # each returns, while the socket takes nothing
            with pytest.raises(ray.exceptions.GetTimeoutError):
                ray.get(lives.busy.count.remote(), timeout=0.5)
        assert ray.get(ray.put(5)) == 5
        late = Log.remote().add.remote("me", 9)
        time.sleep(OUTAGE)
        assert process.mailbox.is_behind, "the alarm was not over"
        lives.end_the_running_call()
    for sink, made in zip(sinks, refs, strict=True):
        assert ray.get(made, timeout=AFTER) == list(range(len(made)))
        assert ray.get(sink.all.remote(), timeout=AFTER) == list(range(len(made)))
    assert ray.get(late, timeout=AFTER) == 9
    lives.check()


BLOCKED = """
import sys
import celery_actors as ray
from celery_actors.client.current import require_process
from chaos_actors import Sink, fill
ray.init(log_to_driver=False)
sinks = [Sink.remote() for _ in range(16)]
ray.get([sink.all.remote() for sink in sinks])
print("ready")
sys.stdin.readline()
fill(sinks, lambda: require_process().mailbox.is_behind)
print("blocked")
sys.stdin.readline()
"""


def test_programs_end_while_rabbitmq_reads_nothing(mortal: PrivateCluster) -> None:
    with Program(BLOCKED, mortal) as program:
        program.hear("that it is ready")
        with memory_alarm(mortal):
            program.tell()
            program.hear("that its socket is full")
            program.tell()
            assert program.wait(AFTER) == 0, "it ends by itself, and is not killed"


@contextmanager
def away(cluster: PrivateCluster) -> Iterator[None]:
    supervisorctl(cluster, "stop", "rabbitmq")
    try:
        yield
    finally:
        supervisorctl(cluster, "start", "rabbitmq")


@pytest.mark.parametrize("fault", [away, memory_alarm])
def test_a_node_worker_ends_in_spite_of_rabbitmq(mortal: PrivateCluster, fault: Any) -> None:
    assert ray.get(Log.remote().count.remote()) == 0
    node = program_states(mortal.session_dir)["node"].pid
    with fault(mortal):
        time.sleep(SHORT)  # in which it sends the events of a Celery worker
        os.kill(node, signal.SIGTERM)
        wait_until(lambda: gone(node), "the end of the node worker", AFTER)
    assert ray.get(Log.remote().add.remote("me", 1), timeout=AFTER) == 1


# -- Redis --------------------------------------------------------------------------------


def test_redis_away_for_longer_than_a_lease(
    lives: Lives, mortal: PrivateCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "_PATIENCE", 1.0)  # as if the outage lasted for minutes
    (borrowed,) = ray.get(lives.idle.put.remote(20), timeout=AFTER)
    supervisorctl(mortal, "stop", "redis")
    lives.end_the_running_call()
    waiting = lives.busy.add.remote("me", 7)
    for ref in (waiting, borrowed):  # the second is stored, and has to be read
        with pytest.raises(ray.exceptions.GetTimeoutError):
            ray.get(ref, timeout=0.5)
    got: list[int] = []
    getter = threading.Thread(target=lambda: got.append(ray.get(borrowed)))
    getter.start()  # waits without a limit
    time.sleep(OUTAGE)
    supervisorctl(mortal, "start", "redis")
    assert ray.get(waiting, timeout=AFTER) == 7
    getter.join(AFTER)
    assert got == [20]
    lives.check()


@contextmanager
def set_to(operator: redis.Redis, setting: str, value: str) -> Iterator[None]:
    before = operator.config_get(setting)[setting]
    operator.config_set(setting, value)
    yield
    operator.config_set(setting, before)


@contextmanager
def full(operator: redis.Redis, _folder: Path) -> Iterator[None]:
    with set_to(operator, "maxmemory", "1"):
        yield


@contextmanager
def replica(operator: redis.Redis, _folder: Path) -> Iterator[None]:
    operator.replicaof("127.0.0.1", "1")  # of a master that is not there: it keeps its data
    yield
    operator.replicaof("NO", "ONE")


@contextmanager
def replica_that_answers_nothing(operator: redis.Redis, folder: Path) -> Iterator[None]:
    operator.config_set("replica-serve-stale-data", "no")
    with replica(operator, folder):
        yield


@contextmanager
def without_replicas(operator: redis.Redis, _folder: Path) -> Iterator[None]:
    with set_to(operator, "min-replicas-to-write", "1"):
        yield


@contextmanager
def without_snapshots(operator: redis.Redis, folder: Path) -> Iterator[None]:
    in_the_way = folder / "dump.rdb"
    in_the_way.mkdir()  # where the snapshot is to be
    operator.config_set("save", "3600 1000000")
    operator.bgsave()
    wait_until(
        lambda: operator.info("persistence")["rdb_last_bgsave_status"] == "err",
        "the snapshot to fail",
    )
    yield
    operator.config_set("save", "")
    in_the_way.rmdir()


def _is_busy(operator: redis.Redis) -> bool:
    try:
        operator.ping()
    except redis.ResponseError as error:
        return "BUSY" in str(error)
    return False


@contextmanager
def busy(operator: redis.Redis, _folder: Path) -> Iterator[None]:
    operator.config_set("busy-reply-threshold", "50")
    kwargs = operator.connection_pool.connection_kwargs
    with redis.Redis(host=kwargs["host"], port=kwargs["port"], password=kwargs["password"]) as own:

        def run() -> None:
            with pytest.raises(redis.ResponseError):  # it is killed
                own.eval("while true do end", 0)

        script = threading.Thread(target=run)
        script.start()
        wait_until(lambda: _is_busy(operator), "the script to run")
        yield
        operator.script_kill()
        script.join()


def _answers_that_it_loads(operator: redis.Redis) -> bool:
    try:
        operator.ping()
    except redis.exceptions.BusyLoadingError:
        return True
    except redis.ConnectionError:
        return False
    raise AssertionError("its file was read before anybody could ask")


def _loads_fast(operator: redis.Redis) -> bool:
    try:
        return bool(operator.config_set("key-load-delay", "0"))
    except redis.ConnectionError:
        return False


@contextmanager
def loading(operator: redis.Redis, folder: Path) -> Iterator[None]:
    """Redis was started again, and reads its file for some time."""
    fill = "for n = 1, 2000 do redis.call('SET', 'filler:' .. ARGV[1] .. n, 'x') end"
    for part in range(100):
        operator.eval(fill, 0, f"{part}:")
    with (folder / "redis.conf").open("a") as configuration:
        configuration.write("key-load-delay 100\n")  # microseconds: half a minute for all of it
    operator.set_retry(Retry(NoBackoff(), 0))
    operator.shutdown()  # its supervisor starts it again
    wait_until(lambda: _answers_that_it_loads(operator), "Redis to load")
    yield
    wait_until(lambda: _loads_fast(operator), "Redis to load faster")


@contextmanager
def without_room_for_clients(operator: redis.Redis, _folder: Path) -> Iterator[None]:
    operator.config_set("maxclients", "1")
    operator.client_kill_filter(_type="normal", skipme=True)
    operator.client_kill_filter(_type="pubsub", skipme=True)
    yield
    operator.config_set("maxclients", "10000")


@contextmanager
def another_password(operator: redis.Redis, _folder: Path) -> Iterator[None]:
    right = operator.connection_pool.connection_kwargs["password"]
    operator.config_set("requirepass", "another")
    operator.client_kill_filter(_type="normal", skipme=True)
    operator.client_kill_filter(_type="pubsub", skipme=True)
    yield
    operator.config_set("requirepass", right)


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        (full, OUTAGE),
        (replica, OUTAGE),
        (replica_that_answers_nothing, SHORT),
        (without_replicas, SHORT),
        (without_snapshots, SHORT),
        (busy, SHORT),
        (loading, SHORT),
        (without_room_for_clients, OUTAGE),
        (another_password, SHORT),
    ],
)
def test_redis_answers_with_an_error(
    lives: Lives,
    mortal: PrivateCluster,
    operator: redis.Redis,
    pool: ThreadPoolExecutor,
    fault: Any,
    seconds: float,
) -> None:
    folder = mortal.session_dir / "redis"
    waiting: list[Future[Any]] = []
    with fault(operator, folder):
        lives.end_the_running_call()
        behind = lives.busy.add.remote("me", 7)
        waiting.append(pool.submit(lambda: ray.get(ray.put("put meanwhile"), timeout=AFTER)))
        waiting.append(
            pool.submit(lambda: ray.get(Log.remote().add.remote("new", 8), timeout=AFTER))
        )
        time.sleep(seconds)
        assert not ray.wait([behind], timeout=0)[0], "its result can't be stored"
    assert ray.get(behind, timeout=AFTER) == 7
    assert [each.result(AFTER) for each in waiting] == ["put meanwhile", 8]
    lives.check()


def test_an_actor_whose_start_a_full_redis_cuts_in_two_is_started(
    lives: Lives, mortal: PrivateCluster, operator: redis.Redis
) -> None:
    (node,) = require_process().control.nodes()
    with stopped(node):
        new = Log.remote()
        first = new.add.remote("new", 1)
        record = f"ca:actor:{new._actor_id.hex()}"
        wait_until(lambda: operator.hget(record, "state") == b"PLACED", "its place")
        operator.config_set("maxmemory", "1")
    # Redis carries out the script that begins it, whose first command needs no memory.
    wait_until(lambda: operator.hget(record, "state") == b"STARTING", "the node to begin it")
    time.sleep(SHORT)  # in which the node can do nothing more for it
    operator.config_set("maxmemory", "0")
    assert ray.get(first, timeout=AFTER) == 1
    lives.end_the_running_call()
    lives.check()


def test_a_file_that_can_not_be_made_is_no_outage(mortal: PrivateCluster) -> None:
    in_the_way = mortal.session_dir / "logs" / require_process().job_id
    in_the_way.parent.mkdir(exist_ok=True)
    in_the_way.touch()  # where the node makes a directory
    with pytest.raises(ActorDiedError, match=r"its process could not be started: .*File exists"):
        ray.get(Log.remote().count.remote(), timeout=AFTER)
    in_the_way.unlink()
    assert ray.get(Log.remote().count.remote(), timeout=AFTER) == 0, "the node went on"


def test_a_call_with_a_handle_inside_waits_for_redis_and_so_do_those_behind_it(
    mortal: PrivateCluster, operator: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "_PATIENCE", 1.0)  # as if the outage lasted for minutes
    keeper, kept = Log.remote(), Log.remote()
    ray.get([keeper.count.remote(), kept.count.remote()])
    with full(operator, Path()):
        passed = keeper.keep.remote(kept)  # the holds of what is inside can't be written
        behind = keeper.ask_kept.remote(5)
        del kept
        assert ray.wait([passed, behind], num_returns=2, timeout=0.5)[0] == []
    assert ray.get([passed, behind], timeout=AFTER) == [None, 5]


def test_what_waits_in_vain_says_why(
    mortal: PrivateCluster, operator: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "_PATIENCE", 0.5)
    with full(operator, Path()):
        known = set(require_process().objects.entries)
        with pytest.raises(ConnectionFailed, match="it is full: raise its maxmemory") as raised:
            ray.put(1)
        assert set(require_process().objects.entries) <= known, "nothing is left of it"
        assert is_outage(raised.value)
        with pytest.raises(ConnectionFailed, match="it is full"):
            Log.remote()
    assert ray.get(ray.put(1)) == 1
    assert ray.get(Log.remote().add.remote("me", 1), timeout=AFTER) == 1
