"""Who owns the files in a shared-memory directory.

Names carry boot, node and owner. An owner holds the exclusive ``flock`` of a marker file ('life')
beside its files as long as it lives; the kernel drops it with the process. What becomes of the
files of an owner that is gone: see `celery_actors.store.sweep`.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from hashlib import blake2b
from typing import TYPE_CHECKING

from celery_actors.store.machine import boot_id
from celery_actors.store.segment import NAME

if TYPE_CHECKING:
    from pathlib import Path

_CLAIM_PATIENCE = 2.0  # seconds; whoever else locks a marker holds it for as long as a sweep takes


def file_prefix(node: str, owner: str) -> str:
    """What the names of an owner's files begin with: ``ca-<boot>-<node>-<owner>-``.

    Raises:
        ValueError: the owner holds other characters than letters, digits and ``_ . -``.
    """
    boot = boot_id()[:8] or "0" * 8  # without one, owners still tell files apart
    short = (
        node[:8]
        if re.match("[0-9a-f]{8}", node)
        else blake2b(node.encode(), digest_size=4).hexdigest()
    )
    prefix = f"ca-{boot}-{short}-{owner}-"
    if not NAME.fullmatch(prefix + "life"):
        raise ValueError(f"owner {owner!r}: 1 to 80 letters, digits and _ . - are allowed")
    return prefix


def claim(directory: Path, prefix: str) -> int:
    """Create and lock the life marker of an owner, before its first file in that directory.

    Returns:
        The descriptor that holds the lock; close it after the marker was unlinked.

    Raises:
        RuntimeError: another live store has the same owner.
    """
    path = directory / f"{prefix}life"
    deadline = time.monotonic() + _CLAIM_PATIENCE
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A sweeper may have unlinked it between our open and lock: then make another.
            if os.path.samestat(os.fstat(fd), path.stat()):
                return fd
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(fd)
        if time.monotonic() > deadline:
            raise RuntimeError(f"another live store owns {path.name}")
        time.sleep(0.005)


def lives(directory: Path, name: str) -> bool:
    """Whether the process that owns the file of that name still runs (as far as we may know)."""
    fd = lock_marker(directory / f"{name.rpartition('-')[0]}-life")
    if fd is not None and fd >= 0:
        os.close(fd)
    return fd is None


def lock_marker(path: Path) -> int | None:
    """Lock a dead owner's marker: a descriptor, -1 without marker, None where the owner lives."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1  # owners make it before, and remove it after, any other file
    except PermissionError:
        return None  # another user's: not ours to judge
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd
