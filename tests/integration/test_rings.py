"""Calls and results of some kilobytes go by shared memory, and by the servers where they can't."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixture_types import StartNode
from waiting import wait_until

import celery_actors as ray
from celery_actors.client.current import require_process
from celery_actors.client.outbox import Outbox
from celery_actors.handle import ActorHandle, actor_id_of
from celery_actors.local import PrivateCluster
from celery_actors.session import SessionInfo

pytestmark = pytest.mark.usefixtures("cluster")

SECONDS = 60
CALLS = 64
ARGUMENT = bytes(8 * 1024)
RINGS_BYTES = 5 << 20


@ray.remote(num_cpus=0, max_restarts=1, max_task_retries=-1)
class Keeper:
    def __init__(self) -> None:
        self.kept: list[int] = []

    def keep(self, number: int, _argument: object) -> int:
        self.kept.append(number)
        return len(self.kept)

    def all(self) -> list[int]:
        return self.kept

    def echo(self, value: bytearray) -> bytearray:
        return value

    def pid(self) -> int:
        return os.getpid()


def outbox(actor: ActorHandle[Keeper]) -> Outbox:
    """Return this process's outbox to an actor."""
    return require_process().outboxes[actor_id_of(actor)]


def keeper(**options: object) -> tuple[ActorHandle[Keeper], int]:
    """Return an actor that has answered, so that it is known whose memory it shares; its pid."""
    actor = Keeper.options(**options).remote()
    return actor, ray.get(actor.pid.remote(), timeout=SECONDS)


def rings_of(pid: int) -> list[Path]:
    """Return the rings that a process writes or has mapped."""
    directory = Path(require_process().settings.shared_memory_dir)
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    mapped = {line.split(maxsplit=5)[-1] for line in lines}
    found = [path for path in directory.glob("ca-*") if str(path) in mapped]
    return [path for path in found if path.stat().st_size == RINGS_BYTES]


def sent(actor: ActorHandle[Keeper], first: int, count: int) -> list[ray.ObjectRef[int]]:
    """Send so many calls, in one message or few; returns their refs."""
    refs = [actor.keep.remote(first + n, ARGUMENT) for n in range(count)]
    ray.wait(refs, num_returns=count, timeout=0)
    wait_until(lambda: not outbox(actor).unsent, "all calls on their way")
    return refs


@pytest.fixture
def stopped() -> Iterator[list[int]]:
    """Processes that a test stops; they go on at its end."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGCONT)


def test_calls_and_results_pass_the_servers_by() -> None:
    actor, pid = keeper()
    values = [bytearray(os.urandom(9000)) for _ in range(300)]
    assert outbox(actor).near
    for _ in range(3):
        assert ray.get([actor.echo.remote(value) for value in values], timeout=SECONDS) == values
    ours = require_process().segments.rings
    assert len(rings_of(pid)) == 2, "it writes results and reads this program's calls"
    assert len(rings_of(os.getpid())) >= 2
    assert not outbox(actor).avoids_ring
    assert not ours.carries_calls, "all are resolved"


def test_results_that_were_written_over_are_in_redis() -> None:
    actor, _ = keeper()
    values = [bytearray(os.urandom(20_000)) for _ in range(400)]  # 8 MB
    refs = [actor.echo.remote(value) for value in values]
    done, _ = ray.wait(refs, num_returns=len(refs), timeout=SECONDS)
    assert len(done) == len(refs)
    assert ray.get(refs, timeout=SECONDS) == values
    assert [ray.get(ref, timeout=SECONDS) for ref in refs[:3]] == values[:3]


def test_more_calls_than_the_ring_has_room_for(stopped: list[int]) -> None:
    """What has no room goes by RabbitMQ, in its order."""
    actors = [keeper() for _ in range(3)]
    for _, pid in actors:
        os.kill(pid, signal.SIGSTOP)
        stopped.append(pid)
    refs = [sent(actor, 0, 300) for actor, _ in actors]  # 7.4 MB, of which none is resolved
    for _, pid in actors:
        os.kill(pid, signal.SIGCONT)
    for index, (actor, _) in enumerate(actors):
        assert ray.get(refs[index], timeout=SECONDS) == list(range(1, 301))
        assert ray.get(actor.all.remote(), timeout=SECONDS) == list(range(300))


def test_an_incarnation_that_can_t_read_the_ring_gets_all_calls_in_order(
    stopped: list[int],
) -> None:
    """As one that is started on another machine: the file is not there for it."""
    actor, pid = keeper()
    assert ray.get(sent(actor, 0, CALLS), timeout=SECONDS) == list(range(1, CALLS + 1))
    os.kill(pid, signal.SIGSTOP)
    stopped.append(pid)
    refs = sent(actor, CALLS, 4 * CALLS)
    assert require_process().segments.rings.carries_calls
    rings = rings_of(os.getpid())
    for path in rings:
        path.rename(f"{path}.away")
    os.kill(pid, signal.SIGKILL)
    assert ray.get(refs, timeout=SECONDS) == list(range(1, 4 * CALLS + 1))
    for path in rings:
        Path(f"{path}.away").rename(path)
    assert ray.get(actor.all.remote(), timeout=SECONDS) == list(range(CALLS, 5 * CALLS))
    assert outbox(actor).avoids_ring, "what comes next goes by RabbitMQ at once"
    assert ray.get(sent(actor, 0, CALLS), timeout=SECONDS)[-1] == 5 * CALLS


def test_a_restarted_actor_reads_what_still_lies_in_the_ring(stopped: list[int]) -> None:
    actor, pid = keeper()
    os.kill(pid, signal.SIGSTOP)
    stopped.append(pid)
    refs = sent(actor, 0, 4 * CALLS)
    assert require_process().segments.rings.carries_calls
    os.kill(pid, signal.SIGKILL)
    assert ray.get(refs, timeout=SECONDS) == list(range(1, 4 * CALLS + 1))
    assert ray.get(actor.all.remote(), timeout=SECONDS) == list(range(4 * CALLS))
    assert not outbox(actor).avoids_ring


LEAVES = """
import sys
import celery_actors as ray
from celery_actors.client.current import require_process

ray.init(address="auto", namespace="rings", log_to_driver=False)
keeper = ray.get_actor("keeper")
print(ray.get(keeper.pid.remote()), flush=True)
assert sys.stdin.readline() == "it is stopped\\n"
for number in range(256):
    keeper.keep.options(num_returns=0).remote(number, bytes(8192))
require_process().flush()
assert require_process().segments.rings.carries_calls
ray.shutdown()
"""


def test_calls_of_a_program_that_leaves_are_run(
    brokers: PrivateCluster, driver: SessionInfo, tmp_path: Path, stopped: list[int]
) -> None:
    """Its ring goes with it: what was not read by then was sent by RabbitMQ."""
    actor = Keeper.options(name="keeper", namespace="rings", lifetime="detached").remote()
    ray.get(actor.pid.remote(), timeout=SECONDS)
    script = tmp_path / "leaves.py"
    script.write_text(LEAVES)
    program = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, **brokers.address.environment()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdin is not None
    assert program.stdout is not None
    pid = int(program.stdout.readline())
    os.kill(pid, signal.SIGSTOP)
    stopped.append(pid)
    program.communicate("it is stopped\n", timeout=SECONDS)
    assert program.returncode == 0
    os.kill(pid, signal.SIGCONT)
    wait_until(
        lambda: len(ray.get(actor.all.remote(), timeout=SECONDS)) >= 256, "the calls of the other"
    )
    assert ray.get(actor.all.remote(), timeout=SECONDS) == list(range(256))
    ray.kill(actor)


def test_a_node_with_other_memory_is_served_by_the_servers(
    start_node: StartNode, tmp_path: Path
) -> None:
    """The last here: other tests' actors are to be on this program's machine."""
    start_node(
        "far",
        num_cpus=1,
        resources={"far": 10},
        env={"CELERY_ACTORS_SHARED_MEMORY_DIR": str(tmp_path)},
    )
    wait_until(lambda: ray.cluster_resources().get("far"), "the other node")
    actor, _ = keeper(resources={"far": 1})
    assert not outbox(actor).near
    values = [bytearray(os.urandom(9000)) for _ in range(100)]
    assert ray.get([actor.echo.remote(value) for value in values], timeout=SECONDS) == values
    assert not outbox(actor).near
    assert not outbox(actor).avoids_ring
