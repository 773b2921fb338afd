"""What actors log and print, as their driver shows it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import logging, sys, threading
import celery_actors as ray
ray.init("local", num_cpus=2)

@ray.remote
class Configured:
    def __init__(self):
        print(f"HANDLERS {len(logging.getLogger().handlers)}")
        logging.basicConfig(level=logging.INFO, format="MINE %(message)s")

    def log(self):
        logging.getLogger("mine").info("from an actor")
        logging.debug("too low")
        thread = threading.Thread(target=lambda: logging.info("from a thread"))
        thread.start()
        thread.join()
        logging.getLogger("celery_actors.any").warning("from the package")

@ray.remote
class Unconfigured:
    def log(self):
        logging.getLogger("other").info("unseen")
        logging.getLogger("other").warning("of the last resort")

@ray.remote
def task():
    logging.basicConfig(level=logging.INFO, format="TASK %(message)s")
    logging.info("from a task")
    print("the last words", end="", flush=True)

actors = [Configured.remote(), Unconfigured.remote()]
ray.get([*[actor.log.remote() for actor in actors], task.remote()])
ray.shutdown()
"""


KILLED = """
import os, signal
import celery_actors as ray
ray.init("local", num_cpus=2)

@ray.remote
class Killed:
    def die(self):
        print("printed", os.environ.get("PYTHONUNBUFFERED"))
        print("unfinished", end="")
        os.kill(os.getpid(), signal.SIGKILL)

for variables in ({}, {"LANG": "C.UTF-8"}):  # forked; with the second, executed anew
    actor = Killed.options(runtime_env={"env_vars": variables}).remote()
    try:
        ray.get(actor.die.remote())
    except ray.exceptions.ActorDiedError:
        pass
ray.shutdown()
"""


def shown_by(program: Path, text: str) -> str:
    """Run a program as its user would; return what it showed."""
    program.write_text(text)
    done = subprocess.run(
        [sys.executable, str(program)],
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_what_is_printed_is_shown_though_the_actor_is_killed(tmp_path: Path) -> None:
    shown = shown_by(tmp_path / "program.py", KILLED)
    assert shown.count(") printed None\n") == 2, shown
    assert shown.count(") unfinished\n") == 2, shown


def test_an_actor_configures_logging_itself(tmp_path: Path) -> None:
    said = shown_by(tmp_path / "program.py", PROGRAM)
    shown = [line.partition(") ")[2] for line in said.splitlines()]
    for line in (
        "HANDLERS 0",
        "MINE from an actor",
        "MINE from a thread",
        "of the last resort",
        "TASK from a task",
        "the last words",
    ):
        assert shown.count(line) == 1, (line, said)
    assert "too low" not in said
    assert "unseen" not in said
    assert said.count("from the package") == 1, "and not by the actor's handler as well"
