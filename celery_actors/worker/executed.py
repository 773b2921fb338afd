"""What another interpreter runs to become an actor process: ``<py_executable> executed.py``.

Its standard input has a line of JSON (the Python version and the package to be used, its
pids, where output goes), then a pickled :class:`~celery_actors.worker.launch.Launch`.  The
cluster's key is among it, and so never in an argument or a variable.

Until ``celery_actors`` is imported all that is printed goes to the start file, whose end is
what users read when it fails.  The start file goes when the process has started.

Run as a script, since whatever wraps an interpreter (``uv run``, a profiler, a shell
script) takes one; nothing of this package can be imported before ``main`` has said where
it is.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import select
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import Any


def main() -> None:
    """Read what this process is to be, and be it."""
    with os.fdopen(os.dup(0), "rb") as source:
        header = json.loads(source.readline())
        pickled = source.read()
    if not header["unbuffered"]:  # it was for this interpreter alone
        del os.environ["PYTHONUNBUFFERED"]
    _close_input()
    _check_version(*header["python"])
    _stay_with(header["pid"], header["parent"])
    _use_package(Path(header["package"]))

    from celery_actors.worker.environments import show_paths
    from celery_actors.worker.interpreter_end import leave, modules_until_now
    from celery_actors.worker.prepared import Prepared
    from celery_actors.worker.program import run

    launch, paths = pickle.loads(pickled)
    show_paths(paths)
    _started(header)
    prepared, before = Prepared.of(launch.settings), modules_until_now()
    leave(run(launch, prepared, tuple(paths)), before)


def _close_input() -> None:
    """User code has nothing to read, as in a forked process."""
    number = os.open(os.devnull, os.O_RDONLY)
    os.dup2(number, 0)
    os.close(number)


def _check_version(major: int, minor: int) -> None:
    own_major, own_minor = sys.version_info[:2]
    if (own_major, own_minor) != (major, minor):
        sys.exit(
            f"this interpreter is Python {own_major}.{own_minor} and the cluster's is Python "
            f"{major}.{minor}: classes and functions are sent as bytecode, which only the same "
            "version can run"
        )


def _stay_with(process: int, parent: int) -> None:
    """End with the process that the node worker watches: this one, or one that wraps it."""
    if os.getpid() == process:
        if os.getppid() != parent:
            sys.exit("the node's fork server is gone")
        return
    try:
        watched = os.pidfd_open(process)
    except ProcessLookupError:
        sys.exit("the process that was to become this interpreter is gone")

    def watch() -> None:
        poll = select.poll()
        poll.register(watched, select.POLLIN)
        poll.poll()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="celery-actors-wrapper", daemon=True).start()


def _use_package(directory: Path) -> None:
    """Import celery_actors from there, and nothing else that lies beside it."""
    here = Path(__file__).resolve().parent
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != here]
    spec = importlib.util.spec_from_file_location(
        "celery_actors", directory / "__init__.py", submodule_search_locations=[str(directory)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["celery_actors"] = module
    spec.loader.exec_module(module)


def _started(header: dict[str, Any]) -> None:
    """Print from now on where a forked process would; pass on what was printed before."""
    sys.stdout.flush()
    sys.stderr.flush()
    for number, output in enumerate(header["outputs"], start=1):
        try:
            os.dup2(output, number)
            os.close(output)
        except OSError:  # what wraps the interpreter has closed it
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            file = os.open(header["log_file"] or os.devnull, flags, 0o600)
            os.dup2(file, number)
            os.close(file)
    start = Path(header["start_file"])
    with start.open("rb") as printed:
        shutil.copyfileobj(printed, sys.stderr.buffer)
    start.unlink()


if __name__ == "__main__":
    main()
