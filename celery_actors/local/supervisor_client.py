"""Asks a running supervisord about its programs, through its socket."""

from __future__ import annotations

import http.client
import socket
import xmlrpc.client
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ProgramState:
    """One program as supervisord sees it."""

    name: str
    state: str
    pid: int
    description: str

    @property
    def failed(self) -> bool:
        """Whether the program ended by itself."""
        return self.state in ("BACKOFF", "EXITED", "FATAL")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(_TIMEOUT_SECONDS)
        try:
            connection.connect(self._path)
        except BaseException:
            connection.close()
            raise
        self.sock = connection


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = _UnixConnection(self._path)
        self._connection = host, connection  # where `close` looks for it
        return connection


def program_states(session: Path) -> dict[str, ProgramState]:
    """The programs by name; empty when supervisord does not answer (yet, or any more)."""
    transport = _UnixTransport(str(session / "supervisor.sock"))
    proxy = xmlrpc.client.ServerProxy("http://localhost", transport=transport)
    try:
        answer: Any = proxy.supervisor.getAllProcessInfo()
    except (OSError, http.client.HTTPException, xmlrpc.client.Error):
        return {}
    finally:
        transport.close()
    return {
        entry["name"]: ProgramState(
            entry["name"], entry["statename"], int(entry["pid"]), entry["description"]
        )
        for entry in answer
    }
