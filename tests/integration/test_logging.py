"""What actors log and print, as their driver shows it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fixture_types import RunScript, StartNode
from waiting import wait_until

import celery_actors
from celery_actors.session import SessionInfo

PROGRAM = """
import logging, sys, threading
import celery_actors as ray
ray.init()

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
ray.init()

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


@pytest.fixture(scope="module", autouse=True)
def node(driver: SessionInfo, start_node: StartNode) -> Iterator[None]:
    """A node, and programs after it, whose Python buffers what it prints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONUNBUFFERED", raising=False)
        start_node("logging", num_cpus=2)
        wait_until(celery_actors.nodes, "the node")
        yield


def test_what_is_printed_is_shown_though_the_actor_is_killed(run_script: RunScript) -> None:
    shown = run_script(KILLED).stderr
    assert shown.count(") printed None\n") == 2, shown
    assert shown.count(") unfinished\n") == 2, shown


def test_an_actor_configures_logging_itself(run_script: RunScript) -> None:
    said = run_script(PROGRAM).stderr
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
