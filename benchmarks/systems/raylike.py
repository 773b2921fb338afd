"""Ray and this package, which have the same API."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from systems.base import CPUS, FREE, WAIT_SECONDS, FuturePeer, expect_rising

HERE = Path(__file__).resolve().parent.parent
START_SECONDS = 60.0


class RayLike(FuturePeer):
    """Both systems; what differs is how a cluster begins and ends."""

    workloads: tuple[str, ...] = (
        "init",
        "init_warm",
        "first_actor",
        "next_actor",
        "many_actors",
        "sync",
        "pipelined",
        "eight_kb",
        "one_to_four",
        "four_to_one",
        "four_to_four",
        "async_actor",
        "tasks_sync",
        "tasks_pipelined",
        "tasks_burst",
        "put_1kb",
        "get_1kb",
        "put_1mb",
        "get_1mb",
        "put_100mb",
        "get_100mb",
        "put_1gb",
        "get_1gb",
        "pass_ref",
        "put_in_a_loop",
        "pass_after_puts",
        "idle_memory",
        "latency",
    )
    name = ""
    actor_bytes = 1  # memory to reckon with for an actor's process

    def __init__(self, ray: Any) -> None:
        self.ray = ray
        self._classes: dict[str, Any] = {}
        self._task: Any = None
        self._free_task: Any = None

    def start(self) -> None:
        """Begin a cluster and declare the classes."""
        self._initialise()
        ray, rising = self.ray, expect_rising

        class Counter:
            def __init__(self) -> None:
                self.value = 0

            def increment(self) -> int:
                self.value += 1
                return self.value

            def echo(self, value: Any) -> Any:
                return value

            def size_of(self, array: Any) -> int:
                return len(array)

            def pid(self) -> int:
                return os.getpid()

        class AsyncCounter:
            def __init__(self) -> None:
                self.value = 0

            async def increment(self) -> int:
                self.value += 1
                return self.value

        class Caller:
            def drive(self, actors: list[Any], count: int) -> int:
                n = len(actors)
                refs = [actors[i % n].increment.remote() for i in range(count)]
                values = ray.get(refs, timeout=WAIT_SECONDS)
                for index in range(n):
                    rising(values[index::n], "a caller's calls")
                return len(values)

        def successor(number: int) -> int:
            return number + 1

        remote = self.ray.remote(num_cpus=0)
        for kind, cls in (
            ("counter", Counter),
            ("async_counter", AsyncCounter),
            ("caller", Caller),
        ):
            self._classes[kind] = remote(cls)
        self._task = self.ray.remote(successor)
        self._free_task = self._task.options(num_cpus=0)

    def _initialise(self) -> None:
        raise NotImplementedError

    def create(self, kind: str = "counter") -> Any:
        """Submit the creation of an actor."""
        return self._classes[kind].remote()

    def submit(self, target: Any, method: str, *arguments: Any) -> Any:
        """Call an actor's method, or the task where ``target`` is None or FREE."""
        if target is None:
            return self._task.remote(*arguments)
        if target is FREE:
            return self._free_task.remote(*arguments)
        return getattr(target, method).remote(*arguments)

    def get(self, ref: Any) -> Any:
        """Get one value."""
        return self.ray.get(ref, timeout=WAIT_SECONDS)

    def get_all(self, refs: list[Any]) -> list[Any]:
        """Get all values in one call."""
        values: list[Any] = self.ray.get(refs, timeout=WAIT_SECONDS)
        return values

    def put(self, value: Any) -> Any:
        """Store a value; returns its ref."""
        return self.ray.put(value)

    def announce(self) -> dict[str, Any]:
        """Return the version."""
        return {"version": self.ray.__version__}

    def stop(self) -> None:
        """Leave the cluster, which ends with it."""
        self.ray.shutdown()

    @contextmanager
    def standing_cluster(self) -> Iterator[tuple[str, dict[str, str]]]:
        """A cluster begun by the system's own command; yields an address and an environment."""
        raise NotImplementedError
        yield

    def warm_inits(self, count: int) -> list[dict[str, float]]:
        """Time ``init()`` of fresh programs against a cluster that stands."""
        with self.standing_cluster() as (address, environment):
            command = [sys.executable, str(HERE / "warm_init.py"), self.name, address]
            found = []
            for _ in range(count + 1):
                done = subprocess.run(
                    command,
                    env={**os.environ, **environment},
                    capture_output=True,
                    text=True,
                    timeout=START_SECONDS,
                    check=False,
                )
                if done.returncode:
                    raise RuntimeError(f"warm_init.py failed:\n{done.stderr[-2000:]}")
                found.append(json.loads(done.stdout.splitlines()[-1]))
            return found[1:]  # the first finds nothing in the caches


class Ours(RayLike):
    """This package, on a private cluster of its own."""

    workloads = (*RayLike.workloads, "sync_by_mailbox", "events", "tasks_burst_share")
    name = "ours"
    actor_bytes = 15_000_000

    def __init__(self) -> None:
        import celery_actors

        super().__init__(celery_actors)
        self._session_dir = ""

    def _initialise(self) -> None:
        info = self.ray.init("local", num_cpus=CPUS)
        self._session_dir = info.session_dir

    @contextmanager
    def without_express(self) -> Iterator[None]:
        """No call of this process goes past RabbitMQ."""
        from celery_actors.client.current import require_process

        process = require_process()
        settings, process.settings = process.settings, replace(process.settings, express=False)
        try:
            yield
        finally:
            process.settings = settings

    def announce(self) -> dict[str, Any]:
        """Beside the version, where stock Celery and the floor find the same brokers."""
        from celery_actors.client.current import require_process

        settings = require_process().settings
        return {
            **super().announce(),
            "session_dir": self._session_dir,
            "brokers": {
                "CELERY_BROKER_URL": settings.broker_url,
                "CELERY_RESULT_BACKEND": settings.result_backend,
            },
        }

    @contextmanager
    def standing_cluster(self) -> Iterator[tuple[str, dict[str, str]]]:
        """`celery-actors start --head`, where no other program looks for a cluster."""
        with tempfile.TemporaryDirectory(prefix="bench-run-") as state:
            environment = {"XDG_RUNTIME_DIR": state}

            def command(*words: str) -> None:
                program = "from celery_actors.cli import main; main()"
                subprocess.run(
                    [sys.executable, "-c", program, *words],
                    env={**os.environ, **environment},
                    stdout=sys.stderr,
                    timeout=START_SECONDS,
                    check=True,
                )

            command("start", "--head", "--num-cpus", str(CPUS))
            try:
                yield "", environment
            finally:
                command("stop")

    @contextmanager
    def task_events(self) -> Iterator[Any]:
        """Have every worker send Celery's task events, as with ``-E``; yields a count of them."""
        from systems.events import EventCount

        brokers = self.announce()["brokers"]
        with EventCount(brokers["CELERY_BROKER_URL"]) as count:
            yield count


class Ray(RayLike):
    """Ray, without its dashboard."""

    name = "ray"
    actor_bytes = 55_000_000

    def __init__(self) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        import ray

        super().__init__(ray)
        # A short path of our own: Ray leaves its session's files where they are.
        self._directory = tempfile.mkdtemp(prefix="bench-ray-")

    def _initialise(self) -> None:
        self.ray.init(num_cpus=CPUS, include_dashboard=False, _temp_dir=self._directory)

    def stop(self) -> None:
        """Leave the cluster and remove its files."""
        super().stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    @contextmanager
    def standing_cluster(self) -> Iterator[tuple[str, dict[str, str]]]:
        """`ray start --head`, ended by its pid: `ray stop` would end every Ray on the machine."""
        port = _free_port()
        directory = tempfile.mkdtemp(prefix="bench-ray-")
        program = Path(sys.executable).with_name("ray")
        command = [str(program), "start", "--head", "--block", f"--port={port}"]
        command += ["--node-ip-address=127.0.0.1", f"--num-cpus={CPUS}"]
        command += ["--include-dashboard=false", f"--temp-dir={directory}"]
        head = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True
        )
        try:
            _wait_for_port(head, port)
            # The head made a token, which programs find where they are told to look for one.
            yield f"127.0.0.1:{port}", {"RAY_AUTH_MODE": "token"}
        finally:
            family = [head.pid, *_descendants(head.pid)]
            head.terminate()
            try:
                head.wait(20)
            except subprocess.TimeoutExpired:
                head.kill()
                head.wait()
            for pid in family:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            shutil.rmtree(directory, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _wait_for_port(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the head ended with status {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.1)  # bounded polling of an outside process
            continue
        return
    raise RuntimeError(f"nothing listens at port {port} after {START_SECONDS:.0f} s")


def _descendants(pid: int) -> list[int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, waiting = [], [pid]
    while waiting:
        parent = waiting.pop()
        children = [child for child, its in parents.items() if its == parent]
        found += children
        waiting += children
    return found
