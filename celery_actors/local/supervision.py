"""What supervisord is told to run."""

from __future__ import annotations

import resource
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from celery_actors.local.session import write_private

EPMD, RABBITMQ, REDIS, NODE = "epmd", "rabbitmq", "redis", "node"


@dataclass(frozen=True, slots=True)
class Program:
    """One program under supervisord. Stopped last to first, by `priority`."""

    name: str
    command: Sequence[str]
    priority: int
    stop_signal: str = "KILL"
    stop_seconds: int = 5
    environment: Mapping[str, str] = field(default_factory=dict)

    def section(self, session: Path) -> str:
        """This program's part of supervisord's configuration."""
        settings = {
            "command": shlex.join([*_dying_with_parent(), *self.command]),
            "priority": str(self.priority),
            "autorestart": "true",
            "startsecs": "1",
            "startretries": "5",
            "stopsignal": self.stop_signal,
            "stopwaitsecs": str(self.stop_seconds),
            "stopasgroup": "false",
            "killasgroup": "true",
            "redirect_stderr": "true",
            "stdout_logfile": str(session / f"{self.name}.log"),
            "stdout_logfile_maxbytes": "20MB",
            "stdout_logfile_backups": "1",
        }
        if self.environment:
            settings["environment"] = ",".join(
                f'{name}="{value}"' for name, value in self.environment.items()
            )
        lines = [f"{name} = {value.replace('%', '%%')}\n" for name, value in settings.items()]
        return f"\n[program:{self.name}]\n" + "".join(lines)


def _most_files() -> int:
    """How many files the programs may open: each actor costs the servers some connections."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)


def node_program(worker_argv: Sequence[str], stop_signal: str = "TERM") -> Program:
    """The node worker; it finds its cluster through the environment that supervisord passes on.

    Where the whole cluster ends with it, it need not say goodbye: it is stopped with KILL.
    """
    command = [sys.executable, "-m", "celery", "-A", "celery_actors", "worker", *worker_argv]
    command += ["--loglevel", "WARNING", "--without-mingle", "--without-gossip"]
    return Program(NODE, command, priority=30, stop_signal=stop_signal)


def write_configuration(session: Path, programs: Sequence[Program]) -> None:
    """Write supervisord's configuration into the session directory."""
    # What stands here is also read by `supervisorctl -c`, so that a session can be looked into.
    socket = session / "supervisor.sock"
    text = (
        "[unix_http_server]\n"
        f"file = {_escaped(socket)}\nchmod = 0600\n\n"
        "[supervisord]\n"
        f"logfile = {_escaped(session / 'supervisord.log')}\nlogfile_backups = 0\n"
        f"pidfile = {_escaped(session / 'supervisord.pid')}\n"
        f"childlogdir = {_escaped(session)}\nnocleanup = true\nsilent = true\n"
        f"minfds = {_most_files()}\n\n"
        "[rpcinterface:supervisor]\n"
        "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n\n"
        f"[supervisorctl]\nserverurl = unix://{_escaped(socket)}\n"
    )
    text += "".join(program.section(session) for program in programs)
    write_private(session / "supervisord.conf", text)


def _escaped(path: Path) -> str:
    return str(path).replace("%", "%%")


def _dying_with_parent() -> list[str]:
    """Linux kills a program so begun when its supervisord is killed and cannot stop it."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
