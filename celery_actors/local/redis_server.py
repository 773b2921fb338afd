"""A private Redis: its configuration and command."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from celery_actors.local.errors import LocalClusterError
from celery_actors.local.rabbitmq import find_program
from celery_actors.local.session import write_private


def find_redis() -> str:
    """Find Redis's server program.

    :raises LocalClusterError: there is none; says what to install.
    """
    program = find_program("redis-server") or find_program("valkey-server")
    if program is None:
        raise LocalClusterError(
            "A private cluster needs Redis, and there is no redis-server on this machine. Install "
            "it (Debian, Ubuntu: apt-get install redis-server; macOS: brew install redis), or give "
            "the address of a running one in CELERY_RESULT_BACKEND."
        )
    return program


@dataclass(frozen=True, slots=True)
class RedisServer:
    """One server's settings; `write` makes its files below the session directory."""

    directory: Path
    port: int
    password: str

    @classmethod
    def plan(cls, session: Path, port: int) -> RedisServer:
        """Choose the server's password."""
        return cls(session / "redis", port, secrets.token_urlsafe(24))

    @property
    def url(self) -> str:
        """The server's URL, password included."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    @property
    def log(self) -> Path:
        """Where the server logs."""
        return self.directory / "redis.log"

    def write(self, program: str) -> list[str]:
        """Write the configuration; returns the command that starts the server."""
        self.directory.mkdir(mode=0o700)
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "protected-mode": "yes",
            "requirepass": self.password,
            "dir": str(self.directory),
            "logfile": str(self.log),
            "loglevel": "notice",
            "daemonize": "no",
            "databases": "1",
            # What it has answered survives a kill of the server, but for the moments in which the
            # disk is too slow for the file: then Redis answers first and writes later.  No
            # snapshots besides.
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": '""',
            # Results come and go: at 64 MB, which is soon written, a rewrite takes a processor
            # from calls every second or two, for a file that is read once, if ever.
            "auto-aof-rewrite-min-size": "256mb",
            # An evicted cursor or record would break promises: refuse writes instead.
            "maxmemory-policy": "noeviction",
            # A subscriber that is busy for a while must not be cut off with its results unread.
            "client-output-buffer-limit": "pubsub 256mb 128mb 60",
            "tcp-backlog": "511",
        }
        configuration = self.directory / "redis.conf"
        write_private(configuration, "".join(f"{k} {v}\n" for k, v in settings.items()))
        return [program, str(configuration)]
