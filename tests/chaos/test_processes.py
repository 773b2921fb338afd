"""kill -9 and SIGSTOP of drivers, actors, fork servers."""

from __future__ import annotations

import atexit
import os
import signal
from pathlib import Path

import psutil
import pytest
import redis
from chaos_actors import Log, wait_for_file
from faults import DETECTION, LEASE, Program, wait_gone
from leftovers import processes_of, shared_memory_files
from waiting import record_of, wait_for_state, wait_until

import celery_actors as ray
from celery_actors.exceptions import ActorDiedError
from celery_actors.local import PrivateCluster

WITH_ACTORS = """
import sys
import celery_actors as ray
from chaos_actors import Log, pid_of_a_task
ray.init()
actors = [Log.remote() for _ in range(2)]
pids = ray.get([actor.pid.remote() for actor in actors])
kept = ray.put(b"x" * 1_000_000), actors[0].large.remote(1_000_000)
ray.get(kept[1])
note, gate = sys.argv[1:]
task = pid_of_a_task.remote(note, gate)
from chaos_actors import wait_for_file
wait_for_file(note)
pids.append(int(open(note).read()))
print(*pids)
sys.stdin.readline()
"""

PRIVATE = """
import sys
import celery_actors as ray
from chaos_actors import Log
info = ray.init("local", num_cpus=2, log_to_driver=False)
print(info.session_dir, ray.get(Log.remote().pid.remote()))
sys.stdin.readline()
"""


@pytest.fixture
def redis_client(brokers: PrivateCluster) -> redis.Redis:
    return redis.Redis.from_url(brokers.address.result_backend)


def test_kill_of_a_driver_on_a_shared_cluster(
    cluster: object, brokers: PrivateCluster, redis_client: redis.Redis, tmp_path: Path
) -> None:
    files = set(shared_memory_files(brokers))
    with Program(WITH_ACTORS, brokers, str(tmp_path / "note"), str(tmp_path / "gate")) as program:
        pids = [int(word) for word in program.hear("the actors' pids").split()]
        assert set(shared_memory_files(brokers)) - files, "its large values lie in shared memory"
        jobs = redis_client.zrange("ca:jobs", 0, -1)
        assert len(jobs) == 2
        program.signal(signal.SIGKILL)
        program.wait()
        wait_gone(pids, "the actors and tasks of a killed driver", LEASE + DETECTION)
        mine = ray.init(ignore_reinit_error=True).job_id.encode()
        (other,) = set(jobs) - {mine}
        wait_until(
            lambda: not [key for key in redis_client.scan_iter() if other in key],
            "no key of its job",
            DETECTION,
        )
        wait_until(
            lambda: set(shared_memory_files(brokers)) <= files,
            "no shared memory of its job",
            DETECTION,
        )


def test_kill_of_a_driver_with_a_private_cluster() -> None:
    with Program(PRIVATE) as program:
        directory, pid = program.hear("its session").split()
        session = Path(directory)
        processes = [p.pid for p in processes_of(session)]
        program.signal(signal.SIGKILL)
        program.wait()
        wait_gone([*processes, int(pid)], "the private cluster's processes")
        wait_until(lambda: not session.exists(), "no session directory")


@pytest.mark.usefixtures("told_only")
def test_kill_of_an_actor_in_a_call(cluster: object, tmp_path: Path) -> None:
    free = ray.cluster_resources()["CPU"]
    wait_until(lambda: ray.available_resources()["CPU"] == free, "the tasks of other tests to end")
    actor, other = Log.options(num_cpus=1).remote(), Log.remote()
    pid = ray.get(actor.pid.remote())
    assert ray.available_resources()["CPU"] == free - 1
    running = actor.hold.remote(str(tmp_path / "started"), str(tmp_path / "gate"))
    queued = [actor.add.remote("me", n) for n in range(3)]
    wait_until((tmp_path / "started").exists, "the call to run")
    os.kill(pid, signal.SIGKILL)
    for ref in (running, *queued):
        with pytest.raises(ActorDiedError, match="SIGKILL"):
            ray.get(ref, timeout=60)
    with pytest.raises(ActorDiedError, match="SIGKILL"):
        ray.get(actor.count.remote(), timeout=60)
    assert ray.get(other.add.remote("me", 1), timeout=60) == 1
    wait_until(lambda: ray.available_resources()["CPU"] == free, "its CPU to be free")


def test_exit_in_a_call_names_the_status(cluster: object) -> None:
    actor = Log.remote()
    with pytest.raises(ActorDiedError, match="status 7"):
        ray.get(actor.exit_here.remote(7), timeout=60)


@ray.remote(max_restarts=-1, num_cpus=0)
class Lingers:
    def __init__(self, ends: str, gate: str) -> None:
        atexit.register(wait_for_file, gate)
        atexit.register(Path(ends).touch)

    def pid(self) -> int:
        return os.getpid()

    def leave(self) -> None:
        ray.actor.exit_actor()


def test_an_actor_that_is_killed_while_it_ends_is_not_restarted(
    cluster: object, tmp_path: Path
) -> None:
    actor = Lingers.remote(str(tmp_path / "ends"), str(tmp_path / "gate"))
    pid = ray.get(actor.pid.remote())
    actor.leave.remote()
    wait_until((tmp_path / "ends").exists, "its exit handlers to run")
    os.kill(pid, signal.SIGALRM)  # as the kernel does where the end takes too long without Redis
    wait_gone([pid], "the actor")
    record = wait_for_state(actor, "DEAD")
    assert (record.restarts, record.cause) == (0, "exit_actor() was called")


def test_a_stopped_actor_goes_on_with_its_calls(cluster: object) -> None:
    actor = Log.remote()
    pid = ray.get(actor.pid.remote())
    os.kill(pid, signal.SIGSTOP)
    try:
        refs = [actor.add.remote("me", n) for n in range(200)]
        ready, _ = ray.wait(refs, num_returns=1, timeout=6)  # past the first re-send
        assert not ready, "a stopped process answers nothing"
    finally:
        os.kill(pid, signal.SIGCONT)
    assert ray.get(refs, timeout=60) == list(range(200))
    assert ray.get(actor.all.remote()) == [("me", n) for n in range(200)]


STOPPED = """
import sys, asyncio
import celery_actors as ray
from celery_actors.exceptions import ActorUnavailableError
from celery_actors.client.current import require_process
from chaos_actors import Log
ray.init()
actor = Log.remote()
print(ray.get(actor.pid.remote()), require_process().caller.hex())
gate = sys.argv[1]
waits = actor.hold.remote(gate + ".started", gate)
future = actor.add.remote("me", 0).future()
try:
    print("got", ray.get(waits, timeout=120))
except ActorUnavailableError as error:
    print("unavailable", "lease" in str(error))
try:
    print("got", future.result(timeout=120))
except ActorUnavailableError as error:
    print("unavailable", "lease" in str(error))
try:
    print("got", ray.get(actor.count.remote(), timeout=60))
except ray.exceptions.ActorDiedError as error:
    print("dead")
again = Log.remote()
values = ray.get([again.add.remote("me", n) for n in range(5)], timeout=60)
print(values, require_process().caller.hex())
big = ray.put(b"y" * 500_000)
print(len(ray.get(big)))
sys.stdin.readline()
ray.shutdown()
print("left")
"""


def test_a_driver_stopped_beyond_its_lease(
    cluster: object, brokers: PrivateCluster, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    with Program(STOPPED, brokers, str(gate)) as program:
        pid, caller = program.hear("the actor's pid").split()
        wait_until(lambda: Path(f"{gate}.started").exists(), "the call to run")
        program.signal(signal.SIGSTOP)
        try:
            wait_gone([int(pid)], "the actor of a driver without a lease", LEASE + DETECTION)
        finally:
            program.signal(signal.SIGCONT)
        assert program.hear("what became of the waiting call") == "unavailable True"
        assert program.hear("what became of its future") == "unavailable True"
        assert program.hear("what became of the old actor") == "dead"
        values, _, new = program.hear("what new work gave").rpartition(" ")
        assert values == "[0, 1, 2, 3, 4]"
        assert new != caller
        assert program.hear("a large value of its new life") == "500000"
        program.tell()
        assert program.hear("that it left") == "left"
        assert program.wait() == 0


def test_a_killed_fork_server_is_replaced(cluster: object) -> None:
    actor = Log.remote()
    pid = ray.get(actor.pid.remote())
    server = psutil.Process(pid).ppid()
    assert "forkserver" in " ".join(psutil.Process(server).cmdline())
    waiting = actor.hold.remote("/dev/null", "/nonexistent/gate")
    os.kill(server, signal.SIGKILL)
    wait_gone([pid], "an actor of a killed fork server")
    with pytest.raises(ActorDiedError, match="fork server"):
        ray.get(waiting, timeout=60)
    again = Log.remote()
    new = ray.get(again.pid.remote(), timeout=60)
    assert psutil.Process(new).ppid() != server
    assert record_of(again).state == "ALIVE"
