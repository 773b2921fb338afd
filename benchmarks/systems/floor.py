"""The floor: the barest loop of py-amqp and Redis that does a call's work.

A request goes through a queue of RabbitMQ, another process counts, stores the result in Redis
and pushes it to the caller, in one pipeline.  No signatures, no order, no failures, no objects.
Pipelined, a message carries 64 calls and a reply 64 results.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from floor_worker import Wire

from systems.base import WAIT_SECONDS, Call, Peer, WrongResultError

HERE = Path(__file__).resolve().parent.parent
CALLS_A_MESSAGE = 64


class Floor(Peer):
    """One worker process and this one."""

    workloads = ("sync", "pipelined", "eight_kb")

    def __init__(self) -> None:
        self._queue = f"bench.floor.{uuid.uuid4().hex[:8]}"
        self._wire = Wire(WAIT_SECONDS)
        self._worker: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Declare the queue, listen for replies and begin the worker."""
        self._wire.channel.queue_declare(self._queue, auto_delete=True, durable=False)
        self._wire.subscribe(f"{self._queue}.replies")
        self._worker = subprocess.Popen(
            [sys.executable, str(HERE / "floor_worker.py"), self._queue],
            stdin=subprocess.DEVNULL,
            env=dict(os.environ),
        )

    def create(self, kind: str = "counter") -> Any:
        """Return the queue; there is one counter."""
        return self._queue

    def one_by_one(
        self, target: Any, method: str, arguments: Callable[[int], tuple[Any, ...]], seconds: float
    ) -> tuple[list[Any], list[float]]:
        """Publish one call, wait for its reply, publish the next."""
        values: list[Any] = []
        latencies: list[float] = []
        publish, reply, clock = self._wire.publish, self._wire.reply, time.perf_counter
        begun = before = clock()
        while before - begun < seconds:
            publish(target, b"1")
            values.append(int(reply()))
            now = clock()
            latencies.append(now - before)
            before = now
        self._check_stored(values)
        return values, latencies

    def burst(self, calls: Sequence[Call]) -> list[Any]:
        """Publish messages of 64 calls, then read their replies."""
        echoed = b""
        if calls[0][1] == "echo":
            import numpy

            array = calls[0][2][0]
            echoed = array.tobytes()
        amounts = [
            min(CALLS_A_MESSAGE, len(calls) - at) for at in range(0, len(calls), CALLS_A_MESSAGE)
        ]
        for amount in amounts:
            self._wire.publish(self._queue, b"%d:" % amount + echoed * amount)
        values: list[Any] = []
        for amount in amounts:
            answer = self._wire.reply()
            if echoed:
                if len(answer) != len(echoed) * amount:
                    raise WrongResultError(f"{len(answer)} bytes came back of {amount} arrays")
                size = len(echoed)
                values += [
                    numpy.frombuffer(answer[at : at + size], array.dtype)
                    for at in range(0, len(answer), size)
                ]
            else:
                last = int(answer)
                values += range(last - amount + 1, last + 1)
        if not echoed:
            self._check_stored(values)
        return values

    def _check_stored(self, values: list[Any]) -> None:
        stored = self._wire.redis.hget(f"{self._queue}.{values[-1]}", str(values[-1]))
        if stored is None or int(stored) != values[-1]:
            raise WrongResultError(f"result {values[-1]} is stored as {stored!r}")

    def announce(self) -> dict[str, Any]:
        """Return the versions of what is at work."""
        import amqp
        import redis

        return {"version": f"amqp {amqp.__version__}, redis {redis.__version__}"}

    def stop(self) -> None:
        """End the worker; the queue goes with its consumer."""
        if self._worker is not None:
            self._worker.terminate()
            self._worker.wait(10)
        self._wire.close()
