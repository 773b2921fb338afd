"""The end of a process that was forked: as an interpreter's, within a deadline."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_START = """
import atexit, os, sys, threading
from functools import partial
from pathlib import Path
import celery_actors.worker.interpreter_end as module
from celery_actors.worker.interpreter_end import (
    Deadline, leave, modules_until_now, run_exit_handlers
)
module._KERNEL_LATER = 50.0  # unless a test is about it
here = Path(sys.argv[1])
before = modules_until_now()
"""


def end(text: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _START + text, str(directory)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_thread_that_never_ends_is_cut_short_and_named(tmp_path: Path) -> None:
    done = end(
        """
threading.Thread(target=threading.Event().wait, name="endless").start()
def late():
    (here / "late").touch()
    os._exit(5)
with Deadline(0.2, late):
    run_exit_handlers(lambda: None)
""",
        tmp_path,
    )
    assert done.returncode == 5
    assert (tmp_path / "late").exists()
    assert "endless" in done.stderr


def test_what_is_raised_on_the_way_keeps_nothing_from_being_done(tmp_path: Path) -> None:
    done = end(
        """
class Stop(BaseException): pass
def refuse(): raise Stop("no")
atexit.register((here / "atexit").touch)
atexit.register(refuse)
with Deadline(30, partial(os._exit, 5)):
    run_exit_handlers(refuse)
leave(4, before)
""",
        tmp_path,
    )
    assert done.returncode == 4
    assert (tmp_path / "atexit").exists()
    assert "Stop: no" in done.stderr


def test_globals_of_imported_modules_go_and_their_files_are_flushed(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "file = open(Path(__file__).parent / 'file', 'w')\n"
        "file.write('written')\n"
        "class Till:\n"
        "    def __del__(self, at=Path(__file__).parent / 'del'): at.touch()\n"
        "till = Till()\n"
        "till.itself = till\n"
    )
    done = end("sys.path.insert(0, str(here)); import shop\nleave(0, before)", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "file").read_text() == "written"
    assert (tmp_path / "del").exists()


def test_the_kernel_ends_a_process_that_can_do_nothing_more(tmp_path: Path) -> None:
    done = end(
        """
import ctypes
module._KERNEL_LATER = 0.5
with Deadline(0.2, partial(os._exit, 5)):
    ctypes.PyDLL(None).sleep(50)  # keeps the GIL
""",
        tmp_path,
    )
    assert done.returncode == -14, "SIGALRM"
