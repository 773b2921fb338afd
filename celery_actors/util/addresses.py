"""The address under which this machine reaches others."""

from __future__ import annotations

import socket

__all__ = ["get_node_ip_address"]


def get_node_ip_address(address: str = "8.8.8.8:53") -> str:
    """Return this machine's IP address, as ``address`` sees it; without a network, 127.0.0.1.

    Nothing is sent: a UDP socket that is connected says which interface it would use.

    :param address: ``host:port`` of somebody outside.
    """
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host.strip("[]"), int(port)))
        except OSError:
            return "127.0.0.1"
        found: str = probe.getsockname()[0]
        return found
