"""The unpacked packages of one node, and what says that a process is still starting.

``<base>/<node>/jobs/<job>/<digest>/`` is an unpacked package, shared by the job's processes
on the node; ``<base>/<node>/starting/`` has a file for each process that another
interpreter is to become.  The base is in the session directory of a local cluster, else in
the temporary directory.  All of it is the user's alone (0700).

The node worker holds a lock on ``<base>/<node>.lock``; a directory whose lock nobody holds
belonged to a node worker that was killed, and the next one removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from zipfile import BadZipFile, ZipFile, ZipInfo

from celery_actors.config import SESSION_DIR_ENVIRONMENT

__all__ = ["EnvironmentCache", "StartFile"]

logger = logging.getLogger(__name__)

_TAIL_BYTES = 4000


def _base() -> Path:
    session = os.environ.get(SESSION_DIR_ENVIRONMENT)
    if session:
        return Path(session) / "env"
    return Path(tempfile.gettempdir()) / f"ca-env-{os.getuid()}"


class EnvironmentCache:
    """The directories of one node.

    The node worker opens, sweeps and closes them; its actor processes put packages in.
    """

    def __init__(self, node_id: str, base: Path | None = None) -> None:
        self._base = base or _base()
        self._node = self._base / node_id
        self._jobs = self._node / "jobs"
        self._starting = self._node / "starting"
        self._lock = -1

    # -- the node worker's -------------------------------------------------------------

    def open(self) -> None:
        """Make the directories, and remove those of node workers that were killed.

        :raises OSError: they can't be made, or others could write there.
        """
        self._base.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = self._base.lstat()
        # In a shared temporary directory anyone may have put it there first.
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise PermissionError(f"{self._base} is not a directory of this user's")
        if status.st_mode & 0o077:
            raise PermissionError(f"{self._base} is open to other users; chmod 700 it")
        threading.Thread(target=self._sweep_killed, name="celery-actors-sweep", daemon=True).start()
        lock = _take(self._node.with_suffix(".lock"), wait=True)
        assert lock is not None
        self._lock = lock
        self._jobs.mkdir(mode=0o700, parents=True)
        self._starting.mkdir(mode=0o700)

    def _sweep_killed(self) -> None:
        for path in self._base.glob("*.lock"):
            lock = _take(path, wait=False)
            if lock is not None:
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                path.unlink(missing_ok=True)
                os.close(lock)

    def sweep(self, running: Callable[[], Container[str]]) -> None:
        """Remove what jobs left that are over.

        :param running: returns the ids of jobs that are not.  It is asked after the
            directories were listed, so that a job that begins meanwhile loses nothing.
        """
        found = _list(self._jobs)
        known = running() if found else ()
        for directory in found:
            if directory.name not in known:
                try:
                    self._remove(directory)
                except OSError as error:
                    logger.warning("%s could not be removed: %s", directory, error)

    def _remove(self, directory: Path) -> None:
        """Remove a job's directory: its name at once, what is in it in the background."""
        away = Path(tempfile.mkdtemp(prefix="old-", dir=self._node))
        directory.rename(away / directory.name)
        threading.Thread(
            target=shutil.rmtree, args=(away,), kwargs={"ignore_errors": True}, daemon=True
        ).start()

    def close(self) -> None:
        """Remove all of it."""
        if self._lock >= 0:
            shutil.rmtree(self._node, ignore_errors=True)
            self._node.with_suffix(".lock").unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = -1
            with contextlib.suppress(OSError):  # others are using it
                self._base.rmdir()

    def overdue(self) -> list[str]:
        """Return the incarnations whose processes should have started by now."""
        return [start.incarnation for start in self._start_files() if start.late]

    def start_of(self, incarnation: str) -> StartFile | None:
        """Return the start file of a process; None: it has started, or needed none."""
        for start in self._start_files():
            if start.incarnation == incarnation:
                return start
        return None

    def _start_files(self) -> list[StartFile]:
        return [StartFile.of(path) for path in _list(self._starting)]

    # -- an actor process's --------------------------------------------------------------

    def start_file(self, incarnation: str, timeout: float) -> StartFile:
        """Make the file that says that a process is starting.

        :param timeout: seconds that it may take; negative: no bound.
        """
        deadline = monotonic() + timeout if timeout >= 0 else float("inf")
        file = StartFile(self._starting / f"{incarnation}@{deadline}", incarnation, deadline)
        file.path.touch(mode=0o600, exist_ok=False)
        return file

    def unpacked(self, job_id: str, digest: str, read: Callable[[], Iterable[bytes]]) -> Path:
        """Return the directory of a package; unpack it first where nobody has.

        :param read: yields the package's bytes.
        :raises OSError: there is no room, or the node worker made no directory.
        :raises BadZipFile: the package is no archive, or names files outside of it.
        """
        job = self._jobs / job_id
        job.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = job / digest
        with _locked(job / f"{digest}.lock"):
            if not directory.is_dir():
                parts = job / f"{digest}.new"
                shutil.rmtree(parts, ignore_errors=True)  # of a process that was killed
                parts.mkdir(mode=0o700)
                with tempfile.TemporaryFile(dir=job) as file:
                    for chunk in read():
                        file.write(chunk)
                    with ZipFile(file) as archive:
                        for info in archive.infolist():
                            _extract(archive, info, parts)
                parts.rename(directory)
        return directory


class StartFile:
    """Takes the output of a process until the interpreter has started.

    :ivar deadline: when it is to have started, in seconds of the machine's monotonic clock.
    """

    def __init__(self, path: Path, incarnation: str, deadline: float) -> None:
        self.path = path
        self.incarnation = incarnation
        self.deadline = deadline

    @classmethod
    def of(cls, path: Path) -> StartFile:
        """Return the one at ``path``."""
        incarnation, _, deadline = path.name.partition("@")
        return cls(path, incarnation, float(deadline))

    @property
    def late(self) -> bool:
        """Whether its time is over."""
        return self.deadline < monotonic()

    def tail(self) -> str:
        """Return the end of what was printed."""
        try:
            return self.path.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").strip()
        except FileNotFoundError:
            return ""


def _list(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except FileNotFoundError:  # it could not be made, or something has tidied up
        return []


def _take(path: Path, wait: bool) -> int | None:
    """Return a descriptor that holds the lock of a file; make the file if need be.

    :param wait: False returns None where another has the lock, or the file is not there.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if wait else 0)
    while True:
        try:
            lock = os.open(path, flags, 0o600)
        except FileNotFoundError:
            if wait:
                raise
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if os.fstat(lock).st_ino == path.stat().st_ino:
                return lock
        except BlockingIOError:
            os.close(lock)
            return None
        except FileNotFoundError:
            pass
        os.close(lock)  # whoever had it has removed the file
        if not wait:
            return None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _extract(archive: ZipFile, info: ZipInfo, into: Path) -> None:
    parts = info.filename.rstrip("/").split("/")
    if not parts[0] or any(part in ("", ".", "..") for part in parts):
        raise BadZipFile(f"it has a file outside of it: {info.filename!r}")
    target = into.joinpath(*parts)
    if info.is_dir():
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        return
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    mode = 0o700 if (info.external_attr >> 16) & 0o100 else 0o600
    number = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with archive.open(info) as source, os.fdopen(number, "wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
