"""The machine that this process runs on."""

from __future__ import annotations

from functools import cache
from pathlib import Path

__all__ = ["boot_id"]


@cache  # a fork server reads it for all of its children
def boot_id() -> str:
    """Return what tells this boot of this machine from every other; empty where nothing does.

    Containers on one machine have it in common.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not Linux, or a sandbox without /proc
        return ""
