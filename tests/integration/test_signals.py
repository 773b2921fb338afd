"""Signals: what actors and tasks, and the programs that they start, do at which."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
from waiting import wait_until

import celery_actors as ray

INTERRUPTED = """
import signal, sys
try:
    print("up", flush=True)
    signal.pause()
except KeyboardInterrupt:
    sys.exit(7)
"""


def _forked_and_interrupted() -> int | None:
    started = multiprocessing.get_context("fork").Process(target=signal.pause)
    started.start()
    assert started.pid
    wait_until(
        lambda: psutil.Process(started.pid).status() == psutil.STATUS_SLEEPING, "the child to wait"
    )
    os.kill(started.pid, signal.SIGINT)
    started.join(60)
    return started.exitcode


class Interrupter:
    """Interrupts what it has started."""

    def exec(self) -> int:
        command = [sys.executable, "-c", INTERRUPTED]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            child.send_signal(signal.SIGINT)
            return child.wait(60)

    def fork(self) -> int | None:
        return _forked_and_interrupted()

    def interrupt_yourself(self) -> str:
        os.kill(os.getpid(), signal.SIGINT)
        return "goes on"

    def dispositions(self) -> dict[str, bool]:
        ignored = {
            s.name: signal.getsignal(s) is signal.SIG_IGN
            for s in signal.valid_signals()
            if isinstance(s, signal.Signals)
        }
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        return {**ignored, "blocked": bool(blocked)}


def test_sigint_ends_what_an_actor_starts_but_not_the_actor(cluster: object) -> None:
    actor = ray.remote(Interrupter).remote()
    assert ray.get(actor.exec.remote()) == 7
    assert ray.get(actor.fork.remote()) == 1
    assert ray.get(actor.interrupt_yourself.remote()) == "goes on"


def test_sigint_ends_what_a_task_starts(cluster: object) -> None:
    assert ray.get(ray.remote(_forked_and_interrupted).remote()) == 1


SIGNALS = """
import signal
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
import celery_actors as ray
from test_signals import Interrupter
ray.init("local", num_cpus=1)
ignored = ray.get(ray.remote(Interrupter).remote().dispositions.remote(), timeout=60)
print(sorted(name for name, whether in ignored.items() if whether))
ray.shutdown()
"""


def test_a_program_that_ignores_and_blocks_all_signals() -> None:
    path = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", SIGNALS],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.stdout == "['SIGPIPE', 'SIGXFSZ']\n", done.stdout + done.stderr
