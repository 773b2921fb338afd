"""Settings: read in one place, frozen, never at import.

A value comes from the Celery app's ``actors_*`` keys, else from the environment, else
from the default below.  The cluster's key comes from a file (mode 0600) that
``CELERY_ACTORS_KEY_FILE`` or ``actors_key_file`` names.
"""

from __future__ import annotations

import os
import pickle
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from celery_actors.app_settings import broker_urls, inherited, redis_parameters
from celery_actors.exceptions import ConfigurationError

__all__ = ["DEFAULT_PREFIX", "SESSION_DIR_ENVIRONMENT", "Settings", "read_key"]

#: Begins every key in Redis and every channel, unless ``actors_prefix`` says otherwise.
DEFAULT_PREFIX = "ca:"

KEY_FILE_ENVIRONMENT = "CELERY_ACTORS_KEY_FILE"
SESSION_DIR_ENVIRONMENT = "CELERY_ACTORS_SESSION_DIR"
REDIS_ENVIRONMENT = "CELERY_ACTORS_REDIS_URL"
SHARED_MEMORY_ENVIRONMENT = "CELERY_ACTORS_SHARED_MEMORY_DIR"


@dataclass(frozen=True, slots=True)
class Settings:
    """How a process takes part in a cluster.  Times in seconds, sizes in bytes."""

    broker_url: str
    """The address of RabbitMQ, or several separated by ";"."""
    result_backend: str
    """The address of the actors' Redis."""
    key: bytes = field(repr=False)
    prefix: str = DEFAULT_PREFIX
    lease: float = 10.0
    """Seconds without a renewal after which a node or driver is lost."""
    result_ttl: float = 600.0
    """Seconds for which a stored result is kept that no holder extends."""
    inline_limit: int = 8 * 1024
    """Larger results are announced to the caller, not pushed."""
    shared_memory_limit: int = 64 * 1024
    """Larger values go to the node's shared memory."""
    window_calls: int = 1000
    window_bytes: int = 4 * 1024 * 1024
    """Unresolved calls, and bytes of them, that one process may have at one actor."""
    batch_calls: int = 128
    batch_bytes: int = 96 * 1024
    """The most calls, and the most bytes, of one message (frame_max is 128 KiB)."""
    exit_timeout: float = 30.0
    """Seconds that an actor which ends has for its exit handlers and threads; then it is killed."""
    shared_memory_dir: str = "/dev/shm"
    spill_dir: str = ""
    """Where large values go when memory is full; empty: a directory of the system's."""
    allow_plain: bool = True
    """Whether unsigned JSON messages of plain Celery clients may call an actor."""
    express: bool = True
    """Whether a call may go straight to an idle actor of this machine, beside its mailbox."""
    broker_read_url: str = ""
    """Where mailboxes are consumed, if not at ``broker_url``."""
    app_settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What the app sets of its connections, remote control and events, by Celery's names."""
    redis_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """How redis-py connects, as Celery's backend makes it of the app's settings; empty: the URL."""

    @classmethod
    def from_app(
        cls, app: Any, broker_url: str | None = None, result_backend: str | None = None
    ) -> Settings:
        """Read the settings of a Celery app.

        :param broker_url, result_backend: take the place of the app's.
        :raises ConfigurationError: no broker, backend or key is configured.
        """
        conf = app.conf
        # As attributes: these know Celery's environment variables, which get() doesn't.
        broker = broker_url or conf.broker_write_url or conf.broker_url
        backend = result_backend or _redis_url(conf) or conf.result_backend
        if not broker or not backend:
            raise ConfigurationError(
                "celery_actors needs a RabbitMQ and a Redis: set CELERY_BROKER_URL "
                "(amqp://…) and CELERY_RESULT_BACKEND (redis://…), or broker_url and "
                "result_backend in the Celery app's configuration"
            )
        brokers = broker_urls(broker, conf)
        readers = broker_urls(broker_url or conf.broker_read_url or broker, conf)
        address, redis_options = redis_parameters(app, backend)
        values: dict[str, Any] = {}
        directory = os.environ.get(SHARED_MEMORY_ENVIRONMENT)
        if directory:
            values["shared_memory_dir"] = directory
        for name in _OVERRIDABLE:
            value = conf.get(f"actors_{name}")
            if value is not None:
                values[name] = value
        path = conf.get("actors_key_file") or os.environ.get(KEY_FILE_ENVIRONMENT)
        key = conf.get("actors_key")
        if key is None:
            key = read_key(Path(path) if path else None)
        elif isinstance(key, str):
            key = key.encode()
        return cls(
            broker_url=brokers,
            broker_read_url="" if readers == brokers else readers,
            result_backend=address,
            key=key,
            app_settings=inherited(conf),
            redis_options=redis_options,
            **values,
        )

    def for_actors(self) -> Settings:
        """Return the settings as a node gives them to its actors' processes.

        :raises ConfigurationError: one of them can't be sent to another process.
        """
        given = dict(self.app_settings)
        if callable(given.get("broker_failover_strategy")):  # of the app's module, and only there
            del given["broker_failover_strategy"]
        settings = replace(self, app_settings=given)
        try:
            pickle.dumps(settings)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ConfigurationError(
                f"a setting of broker_* or redis_* can't be given to the processes of actors: "
                f"{error}; use a value, or a function or class of a module"
            ) from error
        return settings


_OVERRIDABLE = (
    "prefix",
    "lease",
    "result_ttl",
    "inline_limit",
    "shared_memory_limit",
    "window_calls",
    "window_bytes",
    "batch_calls",
    "batch_bytes",
    "exit_timeout",
    "shared_memory_dir",
    "spill_dir",
    "allow_plain",
    "express",
)


def _redis_url(conf: Any) -> str | None:
    """Return the Redis of actors alone, where an app's results are kept elsewhere."""
    return conf.get("actors_redis_url") or os.environ.get(REDIS_ENVIRONMENT)


def read_key(path: Path | None) -> bytes:
    """Read the cluster's key from ``path``.

    :raises ConfigurationError: there is no path, no such file, or others may read it.
    """
    if path is None:
        raise ConfigurationError(
            "no cluster key: every payload is signed, so all processes of a cluster need "
            f"the same key. Write one with `python -c 'import secrets; "
            f"print(secrets.token_hex(32))' > key; chmod 600 key` and name the file in "
            f"{KEY_FILE_ENVIRONMENT} (or actors_key_file in the Celery configuration)"
        )
    try:
        mode = path.stat().st_mode
        key = path.read_bytes().strip()
    except OSError as error:
        raise ConfigurationError(f"cannot read the cluster key {path}: {error}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigurationError(
            f"the cluster key {path} can be read by others: run `chmod 600 {path}`"
        )
    if len(key) < 16:
        raise ConfigurationError(f"the cluster key in {path} is shorter than 16 bytes")
    return key
