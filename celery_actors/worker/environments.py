"""An actor process takes its place: the environment that its creation asks for.

Done by the process itself, after it was forked and before it knows any code of its user,
so that neither the node worker nor the fork server waits for files or interpreters.

Another interpreter takes the process over by ``exec``: pid, parent and the signal that
comes with the parent's death stay the same, so that it is watched, killed and reaped as
any other.  What it is to be it reads from its standard input (:mod:`.executed`).
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from redis import Redis, RedisError

import celery_actors
from celery_actors import serialization
from celery_actors.control import Control
from celery_actors.exceptions import ActorsError, RuntimeEnvSetupError
from celery_actors.ids import object_id
from celery_actors.protocol.environment import Environment
from celery_actors.protocol.signing import Signer
from celery_actors.protocol.values import ValueFlag, encode_value
from celery_actors.store.connection import open_redis
from celery_actors.store.packages import Packages
from celery_actors.worker.environment_cache import EnvironmentCache, StartFile
from celery_actors.worker.launch import Launch

__all__ = ["EXIT_SETUP", "enter", "report_failure"]

#: Exit status of a process whose environment could not be set up.
EXIT_SETUP = 4

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$([A-Za-z_][A-Za-z0-9_]*)")
# Variables that the dynamic loader, the C library, OpenSSL or the interpreter read once, at exec.
_READ_AT_EXEC = re.compile(
    r"LD_|MALLOC_|GLIBC_|GCONV_PATH$|LOCPATH$|LANG$|LANGUAGE$|LC_|OPENSSL_|PYTHON(?!PATH$)"
)
_UNBUFFERED = "PYTHONUNBUFFERED"
_PACKAGE = Path(celery_actors.__file__).resolve().parent  # before any chdir


def enter(launch: Launch, environment: Environment) -> tuple[str, ...]:
    """Set the environment up in this process.

    Does not return where another interpreter takes the process over.

    :returns: directories that are to be first on ``sys.path``.
    :raises RuntimeEnvSetupError: it can't be set up.
    """
    cache = EnvironmentCache(launch.node_id)
    try:
        with _at_most(environment.setup_timeout):
            paths = _unpack(launch, environment, cache)
            before = dict(os.environ)
            _set_variables(launch, environment)
            if environment.working_dir:
                os.chdir(paths[0])
    except (OSError, BadZipFile, RedisError, ActorsError) as error:
        if isinstance(error, RuntimeEnvSetupError):
            raise
        raise RuntimeEnvSetupError(f"its runtime_env could not be set up: {error}") from error
    if any(name == "PYTHONPATH" for name, _ in environment.env_vars):
        paths += [path for path in os.environ["PYTHONPATH"].split(os.pathsep) if path]
    command = _command(environment, before)
    if command:
        start = cache.start_file(launch.incarnation, environment.setup_timeout)
        _execute(command, launch, paths, start)
    show_paths(paths)
    return tuple(paths)


def show_paths(paths: list[str]) -> None:
    """Have programs that this process starts look for modules in the same places."""
    if paths:
        known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        rest = [path for path in known if path and path not in paths]
        os.environ["PYTHONPATH"] = os.pathsep.join([*paths, *rest])


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    def late(_number: int, _frame: Any) -> None:
        raise RuntimeEnvSetupError(
            f"its runtime_env was not set up within {seconds:g} s (setup_timeout_seconds)"
        )

    before = signal.signal(signal.SIGALRM, late)
    if seconds > 0:
        # Again and again: the first may come where an exception is swallowed.
        signal.setitimer(signal.ITIMER_REAL, seconds, 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _unpack(launch: Launch, environment: Environment, cache: EnvironmentCache) -> list[str]:
    digests = [environment.working_dir] if environment.working_dir else []
    digests += environment.py_modules
    if not digests:
        return []
    redis = _patient_redis(launch)
    try:
        control = Control(redis, launch.settings.prefix)
        packages = Packages(control, Signer(launch.settings.key), launch.job_id)
        return [
            str(cache.unpacked(launch.job_id, digest, partial(packages.read, digest)))
            for digest in digests
        ]
    finally:
        redis.close()


def _patient_redis(launch: Launch) -> Redis:
    return open_redis(launch.settings, patience=float("inf"))


def _set_variables(launch: Launch, environment: Environment) -> None:
    for name, value in environment.env_vars:
        os.environ[name] = _VARIABLE.sub(
            # As Ray: ${NAME} of an unknown variable is empty, $NAME stays as it is.
            lambda found: os.environ.get(found[1] or found[2], "" if found[1] else found[0]),
            value,
        )
    os.environ.update(launch.environment)  # which GPUs it has is not the user's to say
    # Read once by this process before it was forked, and now read again.
    time.tzset()
    tempfile.tempdir = None


# -- another interpreter -------------------------------------------------------------------


def _command(environment: Environment, before: Mapping[str, str]) -> list[str]:
    """Return what is to be executed; empty: this interpreter goes on.

    :param before: the variables that this process had at first; an equal one changes nothing.
    """
    if environment.py_executable:
        return shlex.split(environment.py_executable)
    changed = [name for name, _ in environment.env_vars if os.environ[name] != before.get(name)]
    return [sys.executable] if any(map(_READ_AT_EXEC.match, changed)) else []


def _execute(command: list[str], launch: Launch, paths: list[str], start: StartFile) -> None:
    """Become ``command``; what it is to do waits at its standard input.

    :raises RuntimeEnvSetupError: there is no such program.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    outputs = [os.dup(1), os.dup(2)]
    for number in outputs:
        os.set_inheritable(number, True)
    header = {
        "python": list(sys.version_info[:2]),
        "package": str(_PACKAGE),
        "pid": os.getpid(),
        "parent": os.getppid(),
        "start_file": str(start.path),
        "outputs": outputs,
        "log_file": launch.log_file,
        "unbuffered": _UNBUFFERED in os.environ,
    }
    # As the fork server's -u, which not every command would hand on.
    os.environ.setdefault(_UNBUFFERED, "1")
    text = json.dumps(header).encode() + b"\n" + pickle.dumps((launch, paths), protocol=4)
    number = os.memfd_create("launch", 0)
    os.write(number, text)
    os.lseek(number, 0, os.SEEK_SET)
    os.dup2(number, 0)
    os.close(number)
    file = os.open(start.path, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    try:
        os.execvp(command[0], [*command, str(_PACKAGE / "worker" / "executed.py")])
    except OSError as error:
        os.dup2(outputs[0], 1)
        os.dup2(outputs[1], 2)
        start.path.unlink(missing_ok=True)
        raise RuntimeEnvSetupError(
            f"py_executable {shlex.join(command)!r} could not be started: {error}"
        ) from error


# -- failures ------------------------------------------------------------------------------


def report_failure(control: Control, launch: Launch, error: RuntimeEnvSetupError) -> None:
    """Write into an actor's record that its environment could not be set up."""
    oid = object_id(bytes.fromhex(launch.actor_id)[:8], 0)
    dumped = serialization.dumps(error, lambda: "an error")
    signer = Signer(launch.settings.key)
    blob = encode_value(signer, oid, ValueFlag.ERROR, dumped.frames)
    control.failed(launch.actor_id, launch.incarnation, str(error), blob)


def fail(launch: Launch, error: RuntimeEnvSetupError) -> int:
    """Report, as the process itself; returns its exit status."""
    redis = _patient_redis(launch)
    try:
        report_failure(Control(redis, launch.settings.prefix), launch, error)
    finally:
        redis.close()
    return EXIT_SETUP


def unstarted(cause: str, start: StartFile) -> RuntimeEnvSetupError:
    """Return the error of a process that another interpreter was to become, and did not.

    :param cause: how it ended.
    """
    output = start.tail()
    words = f"; it printed:\n{output}" if output else " without a word"
    late = "it took too long and " if start.late else ""
    return RuntimeEnvSetupError(
        f"the interpreter of its runtime_env did not start: {late}{cause}{words}\n"
        "It has to be of the cluster's Python version and to have the packages that "
        "celery_actors needs (celery, redis[hiredis], cloudpickle, psutil; celery_actors itself "
        "is taken from the node)"
    )
