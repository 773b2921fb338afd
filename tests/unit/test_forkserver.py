"""The fork server outlives a process that it can't start."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest
from launches import launch_in

from celery_actors.worker.children import Child, Children

SECONDS = 60.0
#: Every fork fails while the file is there, as where a limit of processes is reached.
NO_ROOM = """
    import errno, os
    fork = os.fork

    def fork_if_there_is_room():
        if os.path.exists({path!r}):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork()

    os.fork = fork_if_there_is_room
"""


def ended(children: Children) -> list[tuple[Child, str]]:
    """Wait for the end of a process."""
    wakeup, deadline = os.eventfd(0), monotonic() + SECONDS
    try:
        while True:
            left = deadline - monotonic()
            assert left > 0, f"{SECONDS:g} s went by and no process ended"
            if children.wait_readable(left, wakeup)[0] and (found := children.events()):
                return found
    finally:
        os.close(wakeup)


@pytest.fixture
def no_room(tmp_path: Path) -> Path:
    path = tmp_path / "no room"
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(NO_ROOM).format(path=str(path)))
    return path


@pytest.fixture
def children(tmp_path: Path, no_room: Path) -> Iterator[Children]:
    children = Children({**os.environ, "PYTHONPATH": str(tmp_path)})
    children.start_server()
    yield children
    children.stop()


def test_a_process_that_can_not_be_forked_ends_alone(
    children: Children, no_room: Path, directory: Path
) -> None:
    children.spawn(launch_in(directory, "1" * 16))
    ((first, why),) = ended(children)
    assert (first.launch.incarnation, why[:32]) == ("1" * 16, "its process exited with status 7")
    no_room.touch()
    children.spawn(launch_in(directory, "2" * 16))
    ((second, why),) = ended(children)
    assert second.launch.incarnation == "2" * 16
    assert why == "its process could not be started: [Errno 11] Resource temporarily unavailable"
    no_room.unlink()
    children.spawn(launch_in(directory, "3" * 16))
    ((third, why),) = ended(children)
    assert (third.launch.incarnation, why[:32]) == ("3" * 16, "its process exited with status 7")
