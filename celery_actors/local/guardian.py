"""The guardian of a local cluster: runs supervisord, and ends everything when its owner ends.

Run by its path (`python -I guardian.py OPTIONS`), not as a module of the package, so that it starts
without the package's imports; hence standard library only.

Guarantees: when the lifeline closes or the owner's process ends, however it ends, within seconds no
process of the cluster is left and its session directory is removed. When the guardian itself is
killed, the kernel stops supervisord and its programs (parent-death signals), and the directory,
unlocked by then, is swept by the next cluster's start.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

MARK = "CELERY_ACTORS_SESSION_DIR"
# Longer than the node worker's own stopwaitsecs in the supervisor's configuration.
ORDERLY_STOP_SECONDS = 8.0
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    """Parse the options, run supervisord until told to end, leave nothing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--session", type=Path, required=True)
    parser.add_argument("--lifeline", type=int, help="descriptor of a pipe; its end is ours")
    parser.add_argument("--owner", type=int, help="process whose end is ours")
    options = parser.parse_args()
    session: Path = options.session

    # Whoever starts a cluster may block signals; its programs, which inherit that, must not.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP):
        # A Python-level handler must exist for the wake-up descriptor to be written.
        signal.signal(number, lambda *_: None)

    # Programs orphaned by a killed supervisord come to us instead of to init.
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    supervisor = subprocess.Popen(
        [
            sys.executable,
            *("-m", "supervisor.supervisord"),
            *("-c", str(session / "supervisord.conf"), "--nodaemon"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        preexec_fn=_die_with_parent,  # noqa: PLW1509 - this process has one thread
    )
    try:
        _start_at_once(session, supervisor)
        _wait_for_the_end(supervisor, wake_read, options.lifeline, options.owner)
    finally:
        _stop(supervisor, session)
        shutil.rmtree(session, ignore_errors=True)
        _kill_rest(session)
        shutil.rmtree(Path("/dev/shm") / session.name, ignore_errors=True)
        shutil.rmtree(session, ignore_errors=True)
    return 0


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _die_with_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _start_at_once(session: Path, supervisor: subprocess.Popen[bytes]) -> None:
    """supervisord looks at its programs first after a poll of one second: end that poll."""
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline and supervisor.poll() is None:
        if _touch(session):
            return
        time.sleep(0.01)  # bounded polling of a process that has no other sign of readiness


def _touch(session: Path) -> bool:
    """Connect to supervisord's socket, which makes it go round its loop."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(session / "supervisor.sock"))
        except OSError:
            return False
    return True


def _wait_for_the_end(
    supervisor: subprocess.Popen[bytes], wake: int, lifeline: int | None, owner: int | None
) -> None:
    watched = [wake]
    if lifeline is not None:
        watched.append(lifeline)
    if owner is not None and hasattr(os, "pidfd_open"):
        # The pipe alone is not enough: a process forked from the owner keeps the pipe's other end.
        try:
            watched.append(os.pidfd_open(owner))
        except ProcessLookupError:
            return
    stopping = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    while supervisor.poll() is None:
        ready, _, _ = select.select(watched, [], [])
        if any(descriptor != wake for descriptor in ready):
            return
        if any(number in stopping for number in os.read(wake, 256)):
            return
        _reap_orphans(supervisor)


def _reap_orphans(supervisor: subprocess.Popen[bytes]) -> None:
    """Reap what ended and was orphaned before; supervisord's own status is its Popen's to read."""
    look = os.WEXITED | os.WNOHANG | os.WNOWAIT
    try:
        while ended := os.waitid(os.P_ALL, 0, look):
            if ended.si_pid == supervisor.pid:
                return
            os.waitpid(ended.si_pid, 0)
    except ChildProcessError:
        return


def _stop(supervisor: subprocess.Popen[bytes], session: Path) -> None:
    if supervisor.poll() is None:
        supervisor.terminate()
        deadline = time.monotonic() + ORDERLY_STOP_SECONDS
        while supervisor.poll() is None:
            if time.monotonic() > deadline:
                supervisor.kill()
            # It notices a signal, and each program's end, after a poll of up to a second: end it.
            _touch(session)
            try:
                supervisor.wait(0.02)
            except subprocess.TimeoutExpired:
                continue
    _kill_rest(session)


def _kill_rest(session: Path) -> None:
    """Kill what is left of the session, until there is nothing.

    That is every process below us (orphans come to us) and every other one that inherited the
    session's mark. Neither alone finds all: a process begun elsewhere is not below us, and one that
    writes its title over its environment, as Redis does, shows no mark.
    """
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline:
        _reap()
        left = _marked(session) | _below(os.getpid())
        if not left:
            return
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.01)  # the kernel takes a moment to end a killed process


def _marked(session: Path) -> set[int]:
    mark = f"{MARK}={session}".encode()
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid():
            continue
        try:
            environment = (process / "environ").read_bytes()
        except OSError:  # ended meanwhile, or not ours to read
            continue
        if mark in environment.split(b"\0"):
            found.add(int(process.name))
    return found


def _below(ancestor: int) -> set[int]:
    children: dict[int, list[int]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            status = (process / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        # The program's name stands in parentheses and may hold anything; the parent is behind it.
        parent = int(status.rpartition(")")[2].split()[1])
        children.setdefault(parent, []).append(int(process.name))
    found: set[int] = set()
    rest = [ancestor]
    while rest:
        for child in children.get(rest.pop(), []):
            if child not in found:
                found.add(child)
                rest.append(child)
    return found


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return


if __name__ == "__main__":
    sys.exit(main())
