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
    deadline = time.monotonic() + 60
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
before = fork(2)
orphans = Orphans(grace=0.0)
popen = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
forked, in_thread = fork(4), []
thread = threading.Thread(target=lambda: in_thread.append(fork(6)))
thread.start()
thread.join()
told, tell = os.pipe()
process = multiprocessing.get_context("fork").Process(
    target=lambda: (os.read(told, 1), os._exit(7))
)
process.start()
pooled = ForkContext().Process(target=os._exit, args=(8,))
pooled.start()
exits = lambda status: [sys.executable, "-c", f"raise SystemExit({status})"]
spawned = os.posix_spawn(sys.executable, exits(9), os.environ)
listed = subprocess.Popen(exits(10), close_fds=False)  # starts by another function
fresh = multiprocessing.get_context("spawn").Process(target=os._exit, args=(11,))
fresh.start()  # which also reaps what of multiprocessing has ended before
os.write(tell, b"x")
by_name = os.spawnv(os.P_NOWAIT, sys.executable, exits(12))
on_terminal, terminal = os.forkpty()
if on_terminal == 0:
    os._exit(13)
lost = [orphan() for _ in range(5)]
own = [popen.pid, forked, *in_thread, process.pid, pooled.pid, spawned, listed.pid, fresh.pid]
for pid in [before, *own, by_name, on_terminal, *lost]:
    wait_for(pid, "Z")
orphans.reap()
assert [state(pid) for pid in lost] == ["gone"] * 5, lost
code = lambda pid: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
for each in (process, pooled, fresh):
    each.join()
print(code(before), popen.wait(), code(forked), process.exitcode, code(in_thread[0]))
print(pooled.exitcode, code(spawned), listed.wait(), fresh.exitcode)
print(code(by_name), code(on_terminal))
"""


def test_orphans_are_reaped_and_own_children_are_not() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stdout == "2 3 4 7 6\n8 9 10 11\n12 13\n", done.stdout + done.stderr
