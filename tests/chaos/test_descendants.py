"""What actors and tasks start ends with them, and is reaped."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from faults import wait_gone
from waiting import wait_until

import celery_actors as ray

StartNode = Callable[..., "subprocess.Popen[bytes]"]


def daemon() -> int:
    """Start what daemons are: forked twice, with a session of its own, its parent gone."""
    read, write = os.pipe()
    first = os.fork()
    if first == 0:
        os.setsid()
        second = os.fork()
        if second == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.write(write, str(os.getpid()).encode())
            time.sleep(600)
        os._exit(0)
    os.waitpid(first, 0)
    pid = int(os.read(read, 20))
    os.close(read)
    os.close(write)
    return pid


def shell_with_children() -> list[int]:
    """Start a shell that has a child, in a process group of its own."""
    command = ["sh", "-c", "sleep 600 & echo $!; wait"]
    shell = subprocess.Popen(command, stdout=subprocess.PIPE, process_group=0)
    assert shell.stdout is not None
    return [shell.pid, int(shell.stdout.readline())]


def process(method: str) -> int:
    """Start a process by :mod:`multiprocessing`, which may not be waited for."""
    started = multiprocessing.get_context(method).Process(
        target=time.sleep, args=(600,), daemon=True
    )
    started.start()
    assert started.pid
    return started.pid


class Starter:
    """Starts processes of every kind."""

    def start(self) -> list[int]:
        kinds = [process("fork"), process("spawn"), process("forkserver"), daemon()]
        return [os.getpid(), *kinds, *shell_with_children()]

    def start_daemon_that_ends(self) -> int:
        pid = daemon()
        os.kill(pid, signal.SIGKILL)
        return pid

    def start_daemon(self) -> int:
        return daemon()

    def leave(self) -> None:
        ray.actor.exit_actor()

    def crash(self) -> None:
        os.abort()

    def pid(self) -> int:
        return os.getpid()


@pytest.fixture
def place(start_node: StartNode, driver: object) -> Iterator[Any]:
    """A node of its own and an actor on it."""
    node = start_node("nursery", num_cpus=2, resources={"nursery": 2})
    wait_until(lambda: "nursery" in ray.cluster_resources(), "the node")
    options: dict[str, Any] = {"resources": {"nursery": 1}}
    yield node, ray.remote(Starter).options(**options).remote()
    node.terminate()
    node.wait(60)
    wait_until(lambda: "nursery" not in ray.cluster_resources(), "the node to leave")


def server_of(pid: int) -> int:
    server = psutil.Process(pid).ppid()
    assert "forkserver" in " ".join(psutil.Process(server).cmdline())
    return server


def _kill(node: subprocess.Popen[bytes], actor: Any, pid: int) -> None:
    ray.kill(actor)


def _signal(node: subprocess.Popen[bytes], actor: Any, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _leave(node: subprocess.Popen[bytes], actor: Any, pid: int) -> None:
    actor.leave.remote()


def _crash(node: subprocess.Popen[bytes], actor: Any, pid: int) -> None:
    actor.crash.remote()


def _end_node(node: subprocess.Popen[bytes], actor: Any, pid: int) -> None:
    node.terminate()


def _kill_node(node: subprocess.Popen[bytes], actor: Any, pid: int) -> None:
    node.kill()


def _kill_server(node: subprocess.Popen[bytes], actor: Any, pid: int) -> None:
    os.kill(server_of(pid), signal.SIGKILL)


def _kill_group(node: subprocess.Popen[bytes], actor: Any, pid: int) -> None:
    os.killpg(node.pid, signal.SIGKILL)  # node worker and fork server


def _kill_node_with_stopped_server(node: subprocess.Popen[bytes], actor: Any, pid: int) -> None:
    os.kill(server_of(pid), signal.SIGSTOP)
    node.kill()


ENDS = [
    _kill,
    _signal,
    _leave,
    _crash,
    _end_node,
    _kill_node,
    _kill_server,
    _kill_group,
    _kill_node_with_stopped_server,
]


@pytest.mark.parametrize("end", ENDS)
def test_what_an_actor_started_ends_with_it(
    place: Any, end: Callable[[subprocess.Popen[bytes], Any, int], None]
) -> None:
    node, actor = place
    pid, *started = ray.get(actor.start.remote(), timeout=60)
    assert all(psutil.pid_exists(each) for each in started)
    end(node, actor, pid)
    wait_gone([pid, *started], "an actor and what it started")


def test_what_an_actor_started_ends_with_its_last_handle(place: Any) -> None:
    _, actor = place
    options: dict[str, Any] = {"resources": {"nursery": 1}}
    other = ray.remote(Starter).options(**options).remote()
    pid, *started = ray.get(other.start.remote(), timeout=60)
    mine = ray.get(actor.start_daemon.remote())
    del other
    wait_gone([pid, *started], "an actor and what it started")
    assert psutil.Process(mine).status() != psutil.STATUS_ZOMBIE, "a living actor's stays"


def test_what_a_task_started_lives_until_its_executor_ends(place: Any) -> None:
    @ray.remote(resources={"nursery": 1}, num_cpus=0)
    def start() -> tuple[int, int]:
        return os.getpid(), daemon()

    executor, pid = ray.get(start.remote())
    assert psutil.pid_exists(pid)
    assert psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    os.kill(executor, signal.SIGKILL)
    wait_gone([pid], "what a task started")


def test_the_fork_server_becomes_the_parent_of_a_daemon(place: Any) -> None:
    _, actor = place
    pid, started = ray.get([actor.pid.remote(), actor.start_daemon.remote()])
    assert psutil.Process(started).ppid() == server_of(pid)


def test_a_daemon_that_ends_before_its_actor_is_reaped(place: Any) -> None:
    _, actor = place
    pids = ray.get([actor.start_daemon_that_ends.remote() for _ in range(5)])
    wait_until(lambda: not any(map(psutil.pid_exists, pids)), "the daemons to be reaped")
    assert ray.get(actor.pid.remote()), "the actor goes on"
