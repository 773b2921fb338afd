"""Who owns the files in a shared-memory directory, and what happens to those of the dead.

Names carry boot, node and owner. An owner holds the exclusive ``flock`` of a marker file ('life')
beside its files as long as it lives; the kernel drops it with the process. A sweep removes only
what belongs to an owner whose marker is unlocked: two clusters that share a machine know nothing of
each other's leases, but cannot sweep each other's files. While the lease of such an owner runs, its
values stay, for the sake of the refs that others have; what holds no value goes at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from celery_actors.store.machine import boot_id
from celery_actors.store.segment import NAME, holds_value, is_ring

if TYPE_CHECKING:
    from collections.abc import Callable

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
    fd = _lock_marker(directory / f"{name.rpartition('-')[0]}-life")
    if fd is not None and fd >= 0:
        os.close(fd)
    return fd is None


def _lock_marker(path: Path) -> int | None:
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


def sweep(directory: Path, alive_owners: Callable[[str], bool]) -> int:
    """Remove the files of dead owners from a store's directory (or spill directory).

    Args:
        directory: where to look; other files in it are left alone.
        alive_owners: whether an owner's lease still runs. Asked once for each owner of whom there
            are files; one that is gone from the leases but whose process still runs is kept too.
            Rings, which are nobody's only copy, values that were released, and files that were
            kept to be written again go as soon as the process is gone.

    Returns:
        How many segments were removed.
    """
    by_owner: dict[str, list[str]] = {}
    with contextlib.suppress(FileNotFoundError):
        for name in [path.name for path in directory.iterdir()]:
            if NAME.fullmatch(name):
                by_owner.setdefault(name.rpartition("-")[0], []).append(name)
    removed = 0
    for prefix, names in by_owner.items():
        match = NAME.fullmatch(names[0])
        if match is None:
            continue
        alive = alive_owners(match[3])
        marker = directory / f"{prefix}-life"
        fd = _lock_marker(marker)
        if fd is None:
            continue
        try:
            kept = 0
            for path in [directory / name for name in names if name != marker.name]:
                # Without a marker it may run and have written nothing itself: the flight
                # recorders of a node's actors have its name.
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    if alive and not is_ring(path.name) and (fd < 0 or holds_value(path)):
                        kept += 1
                    else:
                        path.unlink()
                        removed += 1
            if fd >= 0 and not kept:
                marker.unlink(missing_ok=True)
        finally:
            if fd >= 0:
                os.close(fd)
    return removed
