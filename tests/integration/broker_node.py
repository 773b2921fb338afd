"""What tests ask of the private RabbitMQ itself."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from celery_actors.local import PrivateCluster
from celery_actors.local.rabbitmq import NODE_NAME, find_program


def ask_broker(cluster: PrivateCluster, expression: str) -> str:
    """Evaluate an Erlang expression in the broker's node."""
    erl = find_program("erl")
    assert erl is not None
    caller = next(Path(erl).resolve().parent.parent.glob("**/bin/erl_call"))
    directory = cluster.session_dir / "rabbitmq"
    epmd = re.search(r"ERL_EPMD_PORT=(\d+)", (directory / "start").read_text())
    assert epmd is not None
    cookie = (directory / ".erlang.cookie").read_text()
    answer = subprocess.run(
        [str(caller), "-c", cookie, "-n", NODE_NAME, "-e"],
        input=expression + "\n",
        env={**os.environ, "ERL_EPMD_PORT": epmd[1]},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    ).stdout
    assert answer.startswith("{ok,"), answer
    return answer


@contextmanager
def listener(cluster: PrivateCluster, port: int) -> Iterator[None]:
    """Have the broker listen on a second port; at the end what is connected there is cut off."""
    ask_broker(cluster, f"ok = rabbit_networking:start_tcp_listener({port}, 4).")
    try:
        yield
    finally:
        close_listener(cluster, port)


def close_listener(cluster: PrivateCluster, port: int) -> None:
    """Close a port of the broker, and the connections that were made to it."""
    ask_broker(
        cluster,
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
        cluster,
        "rabbit_networking:ensure_ssl(),"
        f" ok = rabbit_networking:start_ssl_listener({port}, [{options}], 4).",
    )
    try:
        yield
    finally:
        close_listener(cluster, port)
