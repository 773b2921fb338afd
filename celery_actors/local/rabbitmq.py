"""A private RabbitMQ node: where it is installed, its configuration, its start script."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from celery_actors.local import fast_boot
from celery_actors.local.address import SESSION_DIR_VARIABLE
from celery_actors.local.errors import LocalClusterError
from celery_actors.local.session import write_private

NODE_NAME = "actors@localhost"
USER = "actors"
_HOMES = ("/usr/lib/rabbitmq/lib/rabbitmq_server-*", "/opt/rabbitmq", "/usr/local/opt/rabbitmq")
_PASSED_ON = ("PATH", "LANG", "LC_", "LD_", "TZ", "ERL_", "RABBITMQ_")
_SURROGATE = re.compile("[\udc80-\udcff]")  # a byte that is not UTF-8, in a variable
_SERVER_DIRECTORIES = "/usr/local/sbin:/usr/sbin:/sbin:/opt/rabbitmq/sbin"


def find_program(name: str) -> str | None:
    """Find a server's program, also where users other than root have no search path to."""
    return shutil.which(name) or shutil.which(name, path=_SERVER_DIRECTORIES)


@dataclass(frozen=True, slots=True)
class RabbitMQInstallation:
    """The installed RabbitMQ: its own start script, and its libraries where they were found."""

    script: Path
    home: Path | None
    epmd: str | None

    @classmethod
    def find(cls) -> RabbitMQInstallation:
        """Find RabbitMQ on this machine.

        :raises LocalClusterError: there is none; says what to install.
        """
        program = find_program("rabbitmq-server")
        if program is None:
            raise LocalClusterError(
                "A private cluster needs RabbitMQ, and there is no rabbitmq-server on this "
                "machine. Install it (Debian, Ubuntu: apt-get install rabbitmq-server; macOS: "
                "brew install rabbitmq), or give a running broker's address in CELERY_BROKER_URL."
            )
        script = Path(program).resolve()
        candidates = [script.parent.parent]
        for pattern in _HOMES:
            candidates += sorted(Path("/").glob(pattern.lstrip("/")), reverse=True)
        for home in candidates:
            if any(home.glob("plugins/rabbit-*/ebin/rabbit.app")):
                inner = home / "sbin" / "rabbitmq-server"
                return cls(inner if inner.exists() else script, home, find_program("epmd"))
        return cls(script, None, find_program("epmd"))

    @property
    def starts_directly(self) -> bool:
        """Whether the Erlang emulator can be started without the distribution's shell scripts."""
        return self.home is not None and self.epmd is not None and find_program("erl") is not None


@dataclass(frozen=True, slots=True)
class RabbitMQNode:
    """One node's settings; `write` makes its files below the session directory."""

    directory: Path
    port: int
    epmd_port: int
    distribution_port: int
    password: str

    @classmethod
    def plan(cls, session: Path, ports: tuple[int, int, int]) -> RabbitMQNode:
        """Choose the node's password; the ports are the listener's, epmd's and Erlang's own."""
        port, epmd_port, distribution_port = ports
        password = secrets.token_urlsafe(24)
        return cls(session / "rabbitmq", port, epmd_port, distribution_port, password)

    @property
    def url(self) -> str:
        """The broker URL, password included."""
        return f"amqp://{USER}:{self.password}@127.0.0.1:{self.port}//"

    @property
    def log(self) -> Path:
        """Where the node logs."""
        return self.directory / "log" / f"{NODE_NAME}.log"

    def environment(self, installation: RabbitMQInstallation) -> dict[str, str]:
        """What RabbitMQ reads from its environment."""
        directory = self.directory
        variables = {
            "HOME": str(directory),  # the Erlang cookie is read from there
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": NODE_NAME,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self.distribution_port),
            "RABBITMQ_BASE": str(directory),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(directory / "rabbitmq-env.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(directory / "generated"),
            "RABBITMQ_PID_FILE": str(directory / "pid"),
            # Crash dumps of a broker that is removed with its directory help nobody.
            "ERL_CRASH_DUMP_SECONDS": "0",
        }
        if installation.home is not None:
            variables["RABBITMQ_HOME"] = str(installation.home)
            variables["RABBITMQ_PLUGINS_DIR"] = str(installation.home / "plugins")
            variables["ERL_LIBS"] = str(installation.home / "plugins")
        return variables

    def write(self, installation: RabbitMQInstallation) -> list[str]:
        """Write configuration and start script; returns the command that starts the node."""
        for name in ("", "data", "log", "generated"):
            (self.directory / name).mkdir(mode=0o700)
        write_private(self.directory / ".erlang.cookie", secrets.token_hex(20), mode=0o400)
        write_private(self.directory / "enabled_plugins", "[].\n")
        write_private(self.directory / "rabbitmq-env.conf", "")
        write_private(self.directory / "rabbitmq.conf", self._configuration())
        write_private(self.directory / "start", self._start_script(installation))
        return ["/bin/sh", str(self.directory / "start")]

    def _configuration(self) -> str:
        settings = {
            "listeners.tcp.local": f"127.0.0.1:{self.port}",
            "default_user": USER,
            "default_pass": self.password,
            "loopback_users": "none",
            # A call may run for weeks, and prefetched ones wait behind it.
            "consumer_timeout": str(366 * 24 * 3600 * 1000),
            "disk_free_limit.absolute": "50MB",
            "log.file.level": "warning",
            "log.console": "false",
        }
        return "".join(f"{name} = {value}\n" for name, value in settings.items())

    def _start_script(self, installation: RabbitMQInstallation) -> str:
        variables = {**_passed_on(), **self.environment(installation)}
        variables[SESSION_DIR_VARIABLE] = str(self.directory.parent)
        command = (
            self._direct_command(installation.home)
            if installation.starts_directly and installation.home is not None
            else [str(installation.script)]
        )
        # RabbitMQ does not start where a variable is not UTF-8, and a user's may be anything.
        own = [f"{name}={value}" for name, value in variables.items()]
        # Nor does Erlang in a directory that was deleted, as the user's may be.
        return (
            f"cd {shlex.quote(str(self.directory))}\nexec env -i {shlex.join([*own, *command])}\n"
        )

    def _direct_command(self, home: Path) -> list[str]:
        """The emulator itself, with what RabbitMQ's own scripts give it.

        The node's name is given here, so that RabbitMQ finds Erlang's distribution running and
        skips starting an epmd of its own through a second emulator.
        """
        emulator = ["+W", "w", "+B", "i", "+S", _schedulers(), "+P", "1048576", "+t", "5000000"]
        emulator += ["+stbt", "db", "+zdbbl", "128000"]
        # Schedulers spin for some microseconds before they sleep: a call comes to them twice, and
        # waking one costs as much. The others don't: the cores are the actors'.
        emulator += ["+sbwt", "very_short", "+sbwtdcpu", "none", "+sbwtdio", "none"]
        erl = find_program("erl") or "erl"
        boot = fast_boot.boot_arguments(erl, home) or ["-boot", "start_sasl"]
        kernel = {
            "inet_dist_use_interface": "{127,0,0,1}",
            "inet_dist_listen_min": str(self.distribution_port),
            "inet_dist_listen_max": str(self.distribution_port),
            "prevent_overlapping_partitions": "false",
        }
        return [
            *(erl, "-noinput", *boot, *emulator),
            *("-sname", NODE_NAME, "-start_epmd", "false"),
            *(word for name, value in kernel.items() for word in ("-kernel", name, value)),
            *("-syslog", "logger", "[]", "-syslog", "syslog_error_logger", "false"),
            *("-s", "rabbit", "boot"),
        ]


def _passed_on() -> dict[str, str]:
    """Return those of this program's variables that RabbitMQ and Erlang may want."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_PASSED_ON) and not _SURROGATE.search(name + value)
    }


def _schedulers() -> str:
    count = min(os.cpu_count() or 1, 8)
    return f"{count}:{count}"
