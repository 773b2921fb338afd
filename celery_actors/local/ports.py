"""Free loopback ports."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 15000


def free_ports(count: int) -> list[int]:
    """Choose ports on 127.0.0.1 that nobody listens on, below the ephemeral range.

    Below it, because a client that reconnects in a loop while its server restarts could be given
    the server's own port as its outgoing one: it would then talk to itself and keep the port taken.
    """
    chosen: list[int] = []
    highest = _first_ephemeral() - 1
    source = random.SystemRandom()
    for _ in range(1000):
        port = source.randint(_LOWEST, highest)
        if port not in chosen and _is_free(port):
            chosen.append(port)
            if len(chosen) == count:
                return chosen
    raise OSError(f"no {count} free ports on 127.0.0.1 between {_LOWEST} and {highest}")


def _first_ephemeral() -> int:
    try:
        first = int(_EPHEMERAL.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32768
    # A machine with a very wide ephemeral range has no room below it: accept the small risk.
    return first if first > _LOWEST + 1000 else 60000


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the servers do: a port whose last connections linger in TIME_WAIT is free for them.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
