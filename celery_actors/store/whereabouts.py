"""Where a process is, as far as shared memory goes: which machine, which directory."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path

from celery_actors.config import Settings
from celery_actors.control import NodeRecord
from celery_actors.store.machine import boot_id

__all__ = [
    "BOOT",
    "DIRECTORY",
    "get_node_ip_address",
    "node_beside",
    "place",
    "store_capacity",
    "whereabouts",
]

#: Labels that every node has; users don't see them.
BOOT = "celery_actors/boot"
DIRECTORY = "celery_actors/shared-memory"


def whereabouts(settings: Settings) -> dict[str, str]:
    """Return the labels that say which processes share memory with this one.

    The boot id tells this boot of this machine from every other.  Containers on one machine
    have it in common, but not the device that the directory is on.
    """
    status = _directory(settings).stat()
    return {BOOT: boot_id(), DIRECTORY: f"{settings.shared_memory_dir}:{status.st_dev}"}


def store_capacity(settings: Settings) -> int:
    """Return how many bytes of large values the shared memory here can hold."""
    space = os.statvfs(_directory(settings))
    return space.f_blocks * space.f_frsize


def _directory(settings: Settings) -> Path:
    """Return the directory of shared memory, or, where it is not made yet, the one around it."""
    directory = Path(settings.shared_memory_dir)
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    return directory


def place(settings: Settings) -> str:
    """Return one text for :func:`whereabouts`: processes of one place see the same files."""
    return "|".join(whereabouts(settings).values())


def node_beside(settings: Settings, nodes: Iterable[NodeRecord]) -> str | None:
    """Return the id of a node that can read what this process puts in shared memory."""
    here = whereabouts(settings)
    for node in nodes:
        if all(node.labels.get(name) == value for name, value in here.items()):
            return node.node_id
    return None


def get_node_ip_address(address: str = "8.8.8.8:53") -> str:
    """Return this machine's IP address, as ``address`` sees it; without a network, 127.0.0.1.

    Nothing is sent: a UDP socket that is connected says which interface it would use.

    :param address: ``host:port`` of somebody outside.
    """
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host.strip("[]"), int(port)))
        except OSError:
            return "127.0.0.1"
        found: str = probe.getsockname()[0]
        return found
