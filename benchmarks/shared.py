"""What the programs of this folder say alike: names on the command line, machine, versions."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any


def names_of(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Return a type for argparse: some of the known names, separated by commas."""

    def names(text: str) -> list[str]:
        chosen = [name.strip() for name in text.split(",")]
        unknown = [name for name in chosen if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"no such name: {', '.join(unknown)}")
        return chosen

    return names


def versions() -> dict[str, str]:
    """Return the versions of what carries the calls, and this repository's commit."""
    found = {"python": platform.python_version()}
    for package in ("celery", "kombu", "amqp", "redis", "hiredis"):
        found[package] = version(package)
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    found["commit"] = described.stdout.strip()
    return found


def machine() -> dict[str, Any]:
    """Return what figures depend on."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "kernel": platform.release()}


def on_what() -> str:
    """Say the machine in a few words."""
    its = machine()
    return f"{its['cores']} cores of {its['cpu']}"


def short(path: Path) -> Path:
    """Return a path as seen from here, where it is below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
