"""Lua scripts in files that are built of parts.

The first line of a file names the parts that it is built on (``-- needs: base placement``), and so
may that of a part.  They are put before it, each once.
"""

from __future__ import annotations

from importlib.resources import files

__all__ = ["assemble"]

_NEEDS = "-- needs:"


def assemble(package: str, name: str) -> str:
    """Return the source of the script ``lua/{name}.lua`` of a package, behind its parts."""
    parts: dict[str, str] = {}
    _gather(package, name, parts)
    return "\n".join(parts.values())


def _gather(package: str, name: str, parts: dict[str, str]) -> None:
    """Add what a file is built on, then the file itself."""
    body = (files(package) / "lua" / f"{name}.lua").read_text(encoding="utf-8")
    first = body.split("\n", 1)[0]
    if first.startswith(_NEEDS):
        for part in first.removeprefix(_NEEDS).split():
            if part not in parts:
                _gather(package, part, parts)
    parts[name] = body
