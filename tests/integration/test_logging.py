"""What actors log and print, as their driver shows it."""

from __future__ import annotations

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


def test_an_actor_configures_logging_itself(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    shown = [line.partition(") ")[2] for line in done.stderr.splitlines()]
    for line in (
        "HANDLERS 0",
        "MINE from an actor",
        "MINE from a thread",
        "of the last resort",
        "TASK from a task",
        "the last words",
    ):
        assert shown.count(line) == 1, (line, done.stderr)
    assert "too low" not in done.stderr
    assert "unseen" not in done.stderr
    assert done.stderr.count("from the package") == 1, "and not by the actor's handler as well"
