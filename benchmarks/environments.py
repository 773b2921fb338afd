"""Virtual environments of other systems, made when they are first needed."""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

__all__ = ["EnvironmentFailed", "interpreter_of"]


class EnvironmentFailed(Exception):
    """pip could not install what an environment needs."""


def interpreter_of(directory: Path, requirements: Sequence[str], purpose: str) -> str:
    """Return the Python of the virtual environment in ``directory``; make it where there is none.

    It is made again when its requirements have changed or it was left half made.

    :param purpose: what it is for, told while pip works.
    :raises EnvironmentFailed: pip could not install the requirements.
    """
    python = directory / "bin" / "python"
    complete = directory / "installed.txt"
    wanted = "\n".join(requirements) + "\n"
    if complete.exists() and complete.read_text() == wanted:
        return str(python)
    print(f"installing {', '.join(requirements)} for {purpose}", file=sys.stderr)
    venv.create(directory, with_pip=True, clear=True)
    command = [str(python), "-m", "pip", "install", "--quiet", *requirements]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EnvironmentFailed(f"pip could not install {wanted}:\n{done.stderr[-2000:]}")
    complete.write_text(wanted)
    return str(python)
