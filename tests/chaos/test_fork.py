"""Fork in a driver: parent and child are two callers of the same actor."""

from __future__ import annotations

import pytest
import redis
from faults import DETECTION, LEASE, Program, check_streams
from waiting import wait_until

from celery_actors.local import PrivateCluster

FORKING = """
import os, sys, threading
import celery_actors as ray
def say(*words):  # in one write: several processes share the pipe, and `print` writes in pieces
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
from celery_actors.client.current import require_process
from chaos_actors import Log
ray.init()
log = Log.remote()
ref = log.add.remote("parent", 0)
big = ray.put(b"z" * 300_000)
# Under load, so that locks are held and messages under way when it forks.
stop = threading.Event()
errors = []
def load():
    try:
        n = 0
        while not stop.is_set():
            assert ray.get([log.add.remote("load", n + i) for i in range(20)])[-1] == n + 19
            n += 20
        say("load", n)
    except BaseException as error:
        say("error", repr(error))
thread = threading.Thread(target=load)
thread.start()
parent = require_process().caller
connection = require_process().mailbox._connection
def child(name):
    refs = [log.add.remote(name, n) for n in range(200)]
    assert require_process().caller != parent
    assert ray.get(refs, timeout=90) == list(range(200))
    assert ray.get(ref, timeout=90) == 0
    assert len(ray.get(big)) == 300_000
    assert len(ray.get(ray.put(b"w" * 400_000))) == 400_000
    assert len(ray.get(log.large.remote(200_000), timeout=90)) == 200_000
    say(name, 200)
"""

OS_FORK = (
    FORKING
    + """
pids = []
for i in range(3):
    pid = os.fork()
    if pid == 0:
        try:
            child(f"child{i}")
            os._exit(0)
        except BaseException as error:
            say("error", repr(error))
            os._exit(1)
    pids.append(pid)
mine = [log.add.remote("parent", n) for n in range(1, 300)]
assert ray.get(mine, timeout=90) == list(range(1, 300))
for pid in pids:
    assert os.waitpid(pid, 0)[1] == 0
"""
)

MULTIPROCESSING = (
    FORKING
    + """
import multiprocessing
context = multiprocessing.get_context("fork")
children = [context.Process(target=child, args=(f"child{i}",)) for i in range(3)]
for each in children:
    each.start()
mine = [log.add.remote("parent", n) for n in range(1, 300)]
assert ray.get(mine, timeout=90) == list(range(1, 300))
for each in children:
    each.join(90)
    assert each.exitcode == 0, each.exitcode
"""
)

END = """
say("parent", 300)
stop.set()
thread.join()
assert require_process().mailbox._connection is connection, "a child closed the inherited socket"
say("entries", ray.get(log.all.remote()))
"""


@pytest.mark.parametrize("how", [OS_FORK, MULTIPROCESSING], ids=["os.fork", "multiprocessing"])
def test_parent_and_children_go_on(cluster: object, brokers: PrivateCluster, how: str) -> None:
    with Program(how + END, brokers) as program:
        counts: dict[str, int] = {}
        while True:
            word, _, rest = program.hear("how many calls each has made", 120).partition(" ")
            assert word != "error", rest
            if word == "entries":
                break
            counts[word] = int(rest)
        assert set(counts) == {"parent", "load", "child0", "child1", "child2"}
        check_streams(eval(rest), counts)
        assert program.wait() == 0
    with redis.Redis.from_url(brokers.address.result_backend) as client:
        wait_until(
            lambda: client.zcard("ca:callers") == 1,  # this test's own process
            "no record of the children, which said no good-bye",
            LEASE + DETECTION,
        )
