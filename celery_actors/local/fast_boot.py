"""A faster start of RabbitMQ, prepared once for each installed version.

See prepare_boot.erl for what is prepared and why it is faster: 3 s instead of 8 on two cores. It is
kept in the user's cache directory. Whatever does not look as expected makes RabbitMQ start the
ordinary way: slower, never different.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

_log = logging.getLogger(__name__)

_PREPARE_SECONDS = 60.0
_BOOT = "actors.boot"


def boot_arguments(erl: str, home: Path) -> list[str] | None:
    """The emulator's arguments for the fast start, prepared now if need be; None: cannot be."""
    root = Path(erl).resolve().parent.parent
    try:
        directory = _cache_root() / _key(root, home)
        if not (directory / _BOOT).exists():
            _prepare(erl, home, directory)
    except (OSError, subprocess.SubprocessError) as error:
        _log.info("RabbitMQ starts the ordinary way, the fast one could not be prepared: %s", error)
        return None
    return ["-boot", str(directory / "actors"), "-pa", str(directory)]


def _cache_root() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "celery-actors"
    home = Path.home()
    if not home.is_dir():  # of a user who has none; root could make it
        raise FileNotFoundError(f"there is no home directory {home}")
    return home / ".cache" / "celery-actors"


def _key(root: Path, home: Path) -> str:
    """Changes with every upgrade of Erlang or RabbitMQ and with the program that prepares."""
    described = [root / "bin" / "start_sasl.boot", _program()]
    described += sorted(home.glob("plugins/rabbit-*/ebin/rabbit.app"))
    described += sorted(root.glob("lib/kernel-*/ebin/kernel.app"))
    digest = hashlib.blake2b(digest_size=8)
    for path in described:
        status = path.stat()
        digest.update(f"{path}:{status.st_size}:{status.st_mtime_ns}\n".encode())
    return f"rabbitmq-{digest.hexdigest()}"


def _program() -> Path:
    return Path(__file__).with_name("prepare_boot.erl")


def _prepare(erl: str, home: Path, directory: Path) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    # Made aside and renamed: two programs at once prepare the same, and nobody sees half of it.
    aside = Path(tempfile.mkdtemp(prefix="preparing-", dir=directory.parent))
    try:
        program = "".join(
            line
            for line in _program().read_text(encoding="utf-8").splitlines(keepends=True)
            if not line.startswith("%")
        )
        command = [erl, "-noinput", "-boot", "start_clean", "-eval", program]
        subprocess.run(
            [*command, "-extra", str(home / "plugins"), str(aside)],
            check=True,
            timeout=_PREPARE_SECONDS,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "ERL_CRASH_DUMP_SECONDS": "0"},
        )
        if not (aside / _BOOT).exists():
            raise FileNotFoundError(f"{_BOOT} was not written")
        try:
            aside.rename(directory)
        except OSError:
            if not (directory / _BOOT).exists():
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
