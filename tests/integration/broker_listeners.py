"""Further ports of the private RabbitMQ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.broker_node import ask_broker
from celery_actors.local import PrivateCluster


@contextmanager
def listener(cluster: PrivateCluster, port: int) -> Iterator[None]:
    """Have the broker listen on a second port; at the end what is connected there is cut off."""
    ask_broker(cluster.session_dir, f"ok = rabbit_networking:start_tcp_listener({port}, 4).")
    try:
        yield
    finally:
        close_listener(cluster, port)


def close_listener(cluster: PrivateCluster, port: int) -> None:
    """Close a port of the broker, and the connections that were made to it."""
    ask_broker(
        cluster.session_dir,
        f"catch rabbit_networking:stop_tcp_listener({port}),"
        ' [(catch rabbit_networking:close_connection(P, "test"))'
        " || P <- rabbit_networking:connections(),"
        f" {{port, {port}}} <- rabbit_networking:connection_info(P, [port])].",
    )


@contextmanager
def secure_listener(cluster: PrivateCluster, port: int, options: str) -> Iterator[None]:
    """Have the broker listen with TLS, too.

    :param options: of Erlang's ssl, e.g. ``{certfile, "/path"}``.
    """
    ask_broker(
        cluster.session_dir,
        "rabbit_networking:ensure_ssl(),"
        f" ok = rabbit_networking:start_ssl_listener({port}, [{options}], 4).",
    )
    try:
        yield
    finally:
        close_listener(cluster, port)
