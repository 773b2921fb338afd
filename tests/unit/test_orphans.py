"""A node worker that becomes the parent of orphans reaps these, and no child of its own."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import multiprocessing, os, subprocess, sys, threading, time
from pathlib import Path
from billiard.context import ForkContext
from celery_actors.worker.descendants import become_subreaper
from celery_actors.worker.orphans import Orphans

def state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "gone"

def wait_for(pid, wanted):
    deadline = time.monotonic() + 20
    while state(pid) != wanted:
        assert time.monotonic() < deadline, (pid, state(pid), wanted)
        time.sleep(0.01)

def fork(status):
    pid = os.fork()
    if pid == 0:
        os._exit(status)
    return pid

def orphan():
    read, write = os.pipe()
    first = os.fork()
    if first == 0:
        second = os.fork()
        if second == 0:
            os.write(write, str(os.getpid()).encode())
            os._exit(5)
        os._exit(0)
    os.waitpid(first, 0)
    return int(os.read(read, 20))

if os.getpid() != 1:
    become_subreaper()
orphans = Orphans(grace=0.0)
popen = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
forked, in_thread = fork(4), []
thread = threading.Thread(target=lambda: in_thread.append(fork(6)))
thread.start()
thread.join()
process = multiprocessing.get_context("fork").Process(target=os._exit, args=(7,))
process.start()
pooled = ForkContext().Process(target=os._exit, args=(8,))
pooled.start()
lost = [orphan() for _ in range(5)]
for pid in [popen.pid, forked, *in_thread, process.pid, pooled.pid, *lost]:
    wait_for(pid, "Z")
orphans.reap()
assert [state(pid) for pid in lost] == ["gone"] * 5, lost
code = lambda pid: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
process.join()
pooled.join()
print(popen.wait(), code(forked), code(in_thread[0]), process.exitcode, pooled.exitcode)
"""


def test_orphans_are_reaped_and_own_children_are_not() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stdout == "3 4 6 7 8\n", done.stdout + done.stderr
