"""Which cases and programs there are."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from conformance.case import Case

__all__ = ["PROGRAMS", "cases_of", "program_text", "programs", "subjects"]

HERE = Path(__file__).resolve().parent
PROGRAMS = HERE / "programs"

_IMPORT = re.compile(r"^(import ray|from ray)\b(.*)$", re.MULTILINE)


def subjects() -> list[str]:
    """Return the names of the modules with cases, in order."""
    return sorted(p.stem for p in (HERE / "cases").glob("*.py") if p.stem != "__init__")


def cases_of(subject: str) -> list[Case]:
    """Return a subject's cases, in the order in which they are written."""
    module = importlib.import_module(f"conformance.cases.{subject}")
    return [value for value in vars(module).values() if isinstance(value, Case)]


def programs() -> list[Path]:
    """Return the programs; what each has to print is beside it, in ``NAME.out``."""
    return sorted(PROGRAMS.glob("*.py"))


def program_text(path: Path, package: str) -> str:
    """Return a program with its import of Ray changed to that of ``package``, and nothing else."""

    def changed(found: re.Match[str]) -> str:
        statement, rest = found.groups()
        if statement == "import ray":
            return f"import {package} as ray{rest}"
        return f"from {package}{rest}"

    text = path.read_text(encoding="utf-8")
    return text if package == "ray" else _IMPORT.sub(changed, text)
