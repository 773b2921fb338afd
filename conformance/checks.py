"""What the checks of cases share."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar

__all__ = ["Raised", "raises", "run_driver", "submodule", "wait_until"]

T = TypeVar("T")


def submodule(ray: ModuleType, name: str) -> ModuleType:
    """Import a module of the implementation, e.g. ``submodule(ray, "util.queue")``."""
    return importlib.import_module(f"{ray.__name__}.{name}")


class Raised:
    """What was raised in a :func:`raises` block."""

    value: BaseException


@contextmanager
def raises(*kinds: type[BaseException], match: str | None = None) -> Iterator[Raised]:
    """Fail unless the block raises one of these, with a message that has the pattern."""
    raised = Raised()
    names = " or ".join(kind.__name__ for kind in kinds)
    try:
        yield raised
    except kinds as error:
        raised.value = error
        if match is not None and not re.search(match, str(error)):
            raise AssertionError(
                f"{type(error).__name__} says {str(error)[-400:]!r}, not /{match}/"
            ) from error
        return
    except Exception as error:
        kinds_of = ", ".join(kind.__name__ for kind in type(error).__mro__[:-2])
        raise AssertionError(
            f"{names} should be raised, not {kinds_of}: {str(error)[-400:]}"
        ) from error
    raise AssertionError(f"{names} should be raised, and nothing was")


def wait_until(condition: Callable[[], T], awaited: str, seconds: float = 10.0) -> T:
    """Return the first true value of ``condition``; fail, naming what was awaited."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{seconds:g} s went by and there was not: {awaited}")
        time.sleep(0.05)  # bounded polling of another process


def run_driver(ray: ModuleType, text: str, with_errors: bool = False, **environment: Any) -> str:
    """Run a program of its own on the same cluster; returns what it printed.

    :param with_errors: also what it wrote to its standard error.

    The program's text begins after ``import … as ray``; it calls ``ray.init()`` itself.
    """
    done = subprocess.run(
        [sys.executable, "-c", f"import {ray.__name__} as ray\n{text}"],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if with_errors else subprocess.PIPE,
        text=True,
        timeout=40,
        check=False,
    )
    assert done.returncode == 0, f"status {done.returncode}: {(done.stderr or '')[-1500:]}"
    return done.stdout
