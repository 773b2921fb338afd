"""The records and results in a Redis behind Sentinel, and the refusal of Redis Cluster."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis
from celery import Celery
from waiting import wait_until

import celery_actors as ray
from celery_actors.exceptions import ConfigurationError
from celery_actors.local import PrivateCluster
from celery_actors.local.ports import free_ports
from celery_actors.store.connection import connect_redis, refuse_cluster


@contextmanager
def server(directory: Path, name: str, *options: str) -> Iterator[None]:
    configuration = directory / f"{name}.conf"
    configuration.write_text("\n".join([f"dir {directory}", "bind 127.0.0.1", *options]) + "\n")
    command = ["redis-server", str(configuration)]
    if name == "sentinel":
        command.append("--sentinel")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def test_a_redis_behind_sentinel(
    brokers: PrivateCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELERY_ACTORS_KEY_FILE", str(brokers.address.key_file))
    port, sentinel_port = free_ports(2)
    password = secrets.token_hex(8)
    options = {"master_name": "records"}
    url = f"sentinel://:{password}@127.0.0.1:{sentinel_port}/0"
    with ExitStack() as servers:
        servers.enter_context(
            server(tmp_path, "redis", f"port {port}", f"requirepass {password}", 'save ""')
        )
        direct = redis.Redis(port=port, password=password)
        wait_until(lambda: answers(direct), "the Redis to answer")
        servers.enter_context(
            server(
                tmp_path,
                "sentinel",
                f"port {sentinel_port}",
                f"sentinel monitor records 127.0.0.1 {port} 1",
                f"sentinel auth-pass records {password}",
            )
        )
        through = connect_redis(url, None, options)
        wait_until(lambda: answers(through), "the Redis to answer through Sentinel")
        app = Celery("app", broker=brokers.address.broker_url, backend=url)
        app.conf.result_backend_transport_options = options
        ray.init(app=app)
        try:
            ref = ray.put({"through": "sentinel"})
            assert ray.get(ref) == {"through": "sentinel"}
            assert direct.keys("ca:r:*"), "the value lies in the Redis that Sentinel named"
        finally:
            ray.shutdown()
        assert direct.keys() == []
        direct.close()
        through.close()


def test_redis_cluster_is_refused(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with server(tmp_path, "redis", f"port {port}", "cluster-enabled yes", 'save ""'):
        url = f"redis://127.0.0.1:{port}/0"
        client = connect_redis(url)
        wait_until(lambda: answers(client), "the Redis to answer")
        with pytest.raises(ConfigurationError, match="Redis Cluster"):
            refuse_cluster(client, url)
        client.close()
