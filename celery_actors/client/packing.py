"""Packing local files into a zip archive that is the same whenever the files are.

Names are sorted, times left out and permissions reduced to *may be executed*, so that the
digest of the archive is that of the contents.  As in Ray, symbolic links are followed, and
what ``.gitignore`` and ``.rayignore`` files or ``excludes`` name is left out.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO, cast
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile, ZipInfo

from pathspec import GitIgnoreSpec

from celery_actors.exceptions import RuntimeEnvSetupError
from celery_actors.protocol.packages import package_hash

__all__ = [
    "MOST_BYTES",
    "Packed",
    "pack_archive",
    "pack_directory",
    "pack_file",
    "pack_nothing",
]

#: The most bytes that the files of a package may have together (Ray's limit).
MOST_BYTES = 500 << 20

# Ray's, for working_dir: what belongs to this machine, or is made again from the rest.
_NEVER_SENT = (".git", ".venv", "venv", "__pycache__")
_IGNORE_FILES = (".gitignore", ".rayignore")
# Ray's programs set it to have sent what .gitignore names, too.
_NO_GITIGNORE_VARIABLE = "RAY_RUNTIME_ENV_IGNORE_GITIGNORE"
_IN_MEMORY = 8 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)  # zip files know no time before it


@dataclass(slots=True)
class Packed:
    """A package: an archive whose root is to be a directory.  Close ``file`` after use.

    :ivar digest: of the archive's bytes; the package's name.
    :ivar size: bytes of the archive.
    """

    digest: str
    file: BinaryIO
    size: int


@dataclass(frozen=True, slots=True)
class _Member:
    """A file of a package, or an empty directory (then nothing opens it)."""

    name: str
    open: Callable[[], IO[bytes]] | None
    size: int = 0
    executable: bool = False


def pack_directory(
    root: Path, excludes: Sequence[str], parent: str = "", with_ignored: bool = False
) -> Packed:
    """Pack a directory.

    :param excludes: patterns of ``.gitignore``, relative to ``root``.
    :param parent: a directory that the package has in addition, around ``root``.
    :param with_ignored: files that ``.gitignore`` names go along, as extension modules that were
        built in place.
    :raises RuntimeEnvSetupError: it is too large, or a file can't be read.
    """
    prefix = f"{parent}/" if parent else ""
    return _pack(_Walk(root, excludes, with_ignored).members(prefix), root)


def pack_nothing(name: str) -> Packed:
    """Pack an empty directory: a namespace package."""
    return _pack([_Member(f"{name}/", None)], Path(name))


def pack_file(path: Path) -> Packed:
    """Pack one file.

    :raises RuntimeEnvSetupError: it is too large, or can't be read.
    """
    return _pack([_file(path.name, path)], path)


def pack_archive(path: Path) -> Packed:
    """Pack what a ``.zip`` or ``.whl`` file holds; of a wheel, what it would install.

    :raises RuntimeEnvSetupError: it is no such file, or too large.
    """
    try:
        with ZipFile(path) as archive:
            return _pack(_of_archive(archive, wheel=path.suffix == ".whl"), path)
    except BadZipFile as error:
        raise RuntimeEnvSetupError(f"{path} is not a zip file: {error}") from error


def _file(name: str, path: Path) -> _Member:
    status = path.stat()

    def opened() -> IO[bytes]:
        return path.open("rb")

    return _Member(name, opened, status.st_size, bool(status.st_mode & 0o100))


class _Walk:
    """One walk through a directory."""

    def __init__(self, root: Path, excludes: Sequence[str], with_ignored: bool) -> None:
        self._root = root
        self._excludes = GitIgnoreSpec.from_lines([*_NEVER_SENT, *excludes])
        self._names = [
            name
            for name in (() if with_ignored else _IGNORE_FILES)
            if name != ".gitignore" or os.environ.get(_NO_GITIGNORE_VARIABLE) != "1"
        ]

    def members(self, prefix: str) -> Iterator[_Member]:
        return self._directory(self._root, prefix, (), frozenset())

    def _directory(
        self,
        directory: Path,
        prefix: str,
        specs: tuple[tuple[Path, GitIgnoreSpec], ...],
        above: frozenset[tuple[int, int]],
    ) -> Iterator[_Member]:
        status = directory.stat()
        identity = (status.st_dev, status.st_ino)
        if identity in above:  # a link to a directory that it lies in
            return
        for name in self._names:
            path = directory / name
            if path.is_file():
                lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
                specs = (*specs, (directory, GitIgnoreSpec.from_lines(lines)))
        empty = True
        for path in sorted(directory.iterdir()):
            is_directory = path.is_dir()
            if self._is_ignored(path, is_directory, specs):
                continue
            if is_directory:
                yield from self._directory(path, f"{prefix}{path.name}/", specs, above | {identity})
            elif path.is_file():
                yield _file(f"{prefix}{path.name}", path)
            else:  # a socket, a pipe, a link to nothing
                continue
            empty = False
        if empty and prefix:
            yield _Member(prefix, None)

    def _is_ignored(
        self, path: Path, is_directory: bool, specs: Iterable[tuple[Path, GitIgnoreSpec]]
    ) -> bool:
        slash = "/" if is_directory else ""
        if self._excludes.match_file(f"{path.relative_to(self._root)}{slash}"):
            return True
        ignored = False
        for base, spec in specs:  # the innermost file that says something about it decides
            verdict = spec.check_file(f"{path.relative_to(base)}{slash}").include
            if verdict is not None:
                ignored = verdict
        return ignored


def _of_archive(archive: ZipFile, wheel: bool) -> Iterator[_Member]:
    for info in archive.infolist():
        name: str | None = info.filename
        if wheel:
            name = _installed_name(info.filename)
        if name is None:
            continue
        if info.is_dir():
            yield _Member(name, None)
            continue
        executable = bool((info.external_attr >> 16) & 0o100)
        yield _Member(name, partial(archive.open, info, "r"), info.file_size, executable)


def _installed_name(name: str) -> str | None:
    """Return where a wheel's file would be installed; None: not among the modules."""
    top, _, rest = name.partition("/")
    if not top.endswith(".data"):
        return name
    kind, _, inner = rest.partition("/")
    return inner if inner and kind in ("purelib", "platlib") else None


def _pack(members: Iterable[_Member], source: Path) -> Packed:
    try:
        found = list(members)
        _check_size(found, source)
        file = cast("BinaryIO", tempfile.SpooledTemporaryFile(_IN_MEMORY))  # noqa: SIM115
        try:
            with ZipFile(file, "w", ZIP_DEFLATED, compresslevel=1) as archive:
                for member in sorted(found, key=lambda member: member.name):
                    _write(archive, member)
            size = file.tell()
            return Packed(_digest(file), file, size)
        except BaseException:
            file.close()
            raise
    except OSError as error:
        raise RuntimeEnvSetupError(f"{source} could not be packaged: {error}") from error
    except UnicodeEncodeError as error:
        raise RuntimeEnvSetupError(
            f"{source} could not be packaged: the name of {error.object!r:.200} is not UTF-8. "
            "Rename that file"
        ) from error


def _check_size(members: Sequence[_Member], source: Path) -> None:
    total = sum(member.size for member in members)
    if total <= MOST_BYTES:
        return
    largest = sorted(members, key=lambda member: -member.size)[:3]
    names = ", ".join(f"{member.name} ({_mebibytes(member.size)})" for member in largest)
    raise RuntimeEnvSetupError(
        f"{source} has {_mebibytes(total)} in {len(members)} files, and a package may have "
        f"{_mebibytes(MOST_BYTES)}; the largest: {names}. Leave out what is not needed with "
        "`excludes` or a .gitignore file, or put it where all nodes find it"
    )


def _mebibytes(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def _write(archive: ZipFile, member: _Member) -> None:
    info = ZipInfo(member.name, _EPOCH)
    info.compress_type = ZIP_DEFLATED
    info.create_system = 3  # Unix, whatever this is
    info.external_attr = (0o755 if member.executable else 0o644) << 16
    if member.open is None:
        archive.writestr(info, b"")
        return
    info.file_size = member.size
    with member.open() as source, archive.open(info, "w") as target:
        shutil.copyfileobj(source, target, 1 << 20)


def _digest(file: BinaryIO) -> str:
    file.seek(0)
    digest = package_hash()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    file.seek(0)
    return digest.hexdigest()
