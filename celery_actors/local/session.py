"""The session directory: everything that a local cluster writes, and whose it is.

Guarantee: a directory whose lock nobody holds belongs to a cluster that is gone, however it went,
and may be removed.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "celery-actors-"
SHARED_MEMORY = Path("/dev/shm")
LOCK_NAME = "lock"
KEY_NAME = "key"
# A unix socket's path holds 107 bytes, of which the names below the root take up to 45.
_LONGEST_ROOT = 60


# What needs no quoting in the files that the servers read; TMPDIR may hold any character.
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_/.,:@+=-]+", re.ASCII)


def runtime_root() -> Path:
    """Where session directories live: in the user's own place, emptied at boot, if there is one.

    Else in the temporary directory, or in /tmp where that one's path is too long for a socket or
    has characters that the servers would take for something else.
    """
    configured = os.environ.get("XDG_RUNTIME_DIR")
    if configured and _is_suitable(configured):
        root = Path(configured)
        if root.is_dir() and root.stat().st_uid == os.getuid() and os.access(root, os.W_OK):
            return root
    root = Path(tempfile.gettempdir())
    return root if _is_suitable(str(root)) else Path("/tmp")


def _is_suitable(path: str) -> bool:
    return len(path) <= _LONGEST_ROOT and _PLAIN_PATH.fullmatch(path) is not None


def create_session() -> tuple[Path, int]:
    """Make a new directory (0700); returns it and the descriptor that holds its lock."""
    root = runtime_root()
    sweep_abandoned(root)
    directory = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getuid()}-", dir=root))
    lock = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    write_private(directory / KEY_NAME, secrets.token_hex(32) + "\n")
    return directory, lock


def write_private(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file that only this user can read, from its first byte on."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, mode)
        file.write(text)


def shared_memory_of(directory: Path) -> Path:
    """Where the processes of a session put large values: removed with the session."""
    return SHARED_MEMORY / directory.name


def is_held(directory: Path) -> bool:
    """Whether the cluster of this session directory still has its guardian."""
    try:
        lock = os.open(directory / LOCK_NAME, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def remove_session(directory: Path) -> None:
    """Remove the directory and all in it; what has already gone is no error."""
    shutil.rmtree(shared_memory_of(directory), ignore_errors=True)
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        # A dying process wrote a last file while the tree was walked.
        shutil.rmtree(directory, ignore_errors=True)


def sweep_abandoned(root: Path) -> list[Path]:
    """Remove this user's session directories whose guardian was killed; returns those removed."""
    swept = []
    for directory in root.glob(f"{PREFIX}{os.getuid()}-*"):
        if _is_ours(directory) and (directory / LOCK_NAME).exists() and not is_held(directory):
            remove_session(directory)
            swept.append(directory)
    return swept


def _is_ours(directory: Path) -> bool:
    try:
        status = directory.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()


def user_state_dir() -> Path:
    """The directory (0700, this user's) in which clusters begun by hand are recorded."""
    directory = runtime_root() / f"celery-actors.{os.getuid()}"
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        status = directory.lstat()
        # In a shared temporary directory anyone may have put it there first.
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise PermissionError(f"{directory} is not a directory of this user's") from None
        if status.st_mode & 0o077:
            raise PermissionError(f"{directory} is open to other users; chmod 700 it") from None
    return directory


@contextmanager
def exclusively(path: Path) -> Iterator[None]:
    """Hold the lock of a file: two commands at once see each other's finished work only."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
