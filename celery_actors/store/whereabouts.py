"""Where a process is, as far as shared memory goes: which machine, which directory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from celery_actors.config import Settings
from celery_actors.control import NodeRecord
from celery_actors.store.machine import boot_id

__all__ = ["BOOT", "DIRECTORY", "node_beside", "whereabouts"]

#: Labels that every node has; users don't see them.
BOOT = "celery_actors/boot"
DIRECTORY = "celery_actors/shared-memory"


def whereabouts(settings: Settings) -> dict[str, str]:
    """Return the labels that say which processes share memory with this one.

    The boot id tells this boot of this machine from every other; containers on one
    machine have it in common, but not the directory's device and inode.
    """
    directory = Path(settings.shared_memory_dir)
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    status = directory.stat()
    return {BOOT: boot_id(), DIRECTORY: f"{settings.shared_memory_dir}:{status.st_dev}"}


def node_beside(settings: Settings, nodes: Iterable[NodeRecord]) -> str | None:
    """Return the id of a node that can read what this process puts in shared memory."""
    here = whereabouts(settings)
    for node in nodes:
        if all(node.labels.get(name) == value for name, value in here.items()):
            return node.node_id
    return None
