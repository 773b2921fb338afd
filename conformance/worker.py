"""Runs cases of one subject on one implementation, in one process.

    python -m conformance.worker PACKAGE SUBJECT CASE…

Prints a line of JSON before each check and one after it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
import time
import traceback
from types import FrameType, ModuleType
from typing import Any

from conformance.case import Case, Check
from conformance.catalog import cases_of


class _TimedOut(BaseException):
    """A check took longer than it may; nothing in a check catches this."""


def main() -> None:
    """Run the cases named on the command line."""
    package, subject, *names = sys.argv[1:]
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(**message: Any) -> None:
        print(json.dumps(message), file=output, flush=True)

    signal.signal(signal.SIGALRM, _alarm)
    ray = importlib.import_module(package)
    ray.init(log_to_driver=False)
    tell(ready=True)
    cases = {one.name: one for one in cases_of(subject)}
    for name in names:
        one = cases[name]
        print(f"-- {one.id}", file=sys.stderr, flush=True)
        tell(begin=name, seconds=one.seconds * (2 if one.stronger else 1))
        result: dict[str, Any] = _outcome(ray, one, one.check)
        if one.stronger is not None:
            result["stronger"] = _outcome(ray, one, one.stronger)
        tell(case=name, **result)
    tell(over=True)
    ray.shutdown()


def _alarm(_number: int, _frame: FrameType | None) -> None:
    raise _TimedOut


def _outcome(ray: ModuleType, one: Case, check: Check) -> dict[str, Any]:
    begun = time.monotonic()
    outcome, detail = "pass", ""
    signal.setitimer(signal.ITIMER_REAL, one.seconds)
    try:
        check(ray)
    except _TimedOut as error:
        outcome, detail = "timeout", _where(error, one)
    except BaseException as error:
        outcome, detail = "fail", _where(error, one)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    gc.collect()  # handles in frames of what was raised: their actors end before the next case
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    return {"outcome": outcome, "detail": detail, "seconds": round(time.monotonic() - begun, 2)}


def _where(error: BaseException, one: Case) -> str:
    """Say what was raised, in which line of the case, and what the case's variables were."""
    summary = traceback.extract_tb(error.__traceback__)
    lines = [f for f in summary if f.filename.endswith(f"cases/{one.subject}.py")]
    at = f" at line {lines[-1].lineno}: {lines[-1].line}" if lines else ""
    name = type(error).__name__.lstrip("_")
    text = str(error)
    message = text if len(text) < 900 else f"{text[:300]} … {text[-600:]}"
    return f"{name}{at}\n{message}\n{_variables(error, one)}".strip()


def _variables(error: BaseException, one: Case) -> str:
    shown: list[str] = []
    step = error.__traceback__
    while step is not None:
        frame = step.tb_frame
        if frame.f_code.co_filename.endswith(f"cases/{one.subject}.py"):
            shown = [
                f"{name} = {value!r:.120}"
                for name, value in frame.f_locals.items()
                if not isinstance(value, (type, ModuleType)) and not callable(value)
            ]
        step = step.tb_next
    return "\n".join(shown)


if __name__ == "__main__":
    main()
