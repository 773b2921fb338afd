"""The records and results in a Redis behind Sentinel, and the refusal of Redis Cluster."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import redis
from celery import Celery
from shop import Shop
from waiting import wait_until

import celery_actors as ray
from celery_actors.config import Settings
from celery_actors.exceptions import ConfigurationError
from celery_actors.handle import actor_id_of
from celery_actors.local import PrivateCluster
from celery_actors.local.ports import free_ports
from celery_actors.store.connection import connect_redis, open_redis
from celery_actors.store.rights import check_redis


@contextmanager
def server(directory: Path, name: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    configuration = directory / f"{name}.conf"
    configuration.write_text("\n".join([f"dir {directory}", "bind 127.0.0.1", *options]) + "\n")
    command = ["redis-server", str(configuration)]
    if name == "sentinel":
        command.append("--sentinel")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield process
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
        app = Celery("app", broker=brokers.address.broker_url, backend=url)
        app.conf.result_backend_transport_options = options
        through = open_redis(Settings.from_app(app))
        wait_until(lambda: answers(through), "the Redis to answer through Sentinel")
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


@ray.remote
class Till:
    def __init__(self) -> None:
        self.sum = 0

    def add(self, amount: int) -> int:
        self.sum += amount
        return self.sum


def test_calls_go_on_when_another_redis_becomes_the_master(
    brokers: PrivateCluster, tmp_path: Path
) -> None:
    first, second, *watchers = free_ports(4)
    secret, watching = secrets.token_hex(8), secrets.token_hex(8)
    common = (f"requirepass {secret}", f"masterauth {secret}", 'save ""')
    watched = (
        f"requirepass {watching}",
        f"sentinel monitor records 127.0.0.1 {first} 1",
        f"sentinel auth-pass records {secret}",
        "sentinel down-after-milliseconds records 1000",
        "sentinel failover-timeout records 4000",
    )
    urls = [f"sentinel://:{secret}@127.0.0.1:{port}/1" for port in watchers]
    shop = Shop(
        tmp_path / "shop",
        brokers,
        {
            "result_backend": ";".join(urls),
            "result_backend_transport_options": {
                "master_name": "records",
                "sentinel_kwargs": {"password": watching},
            },
        },
    )
    with ExitStack() as servers:
        (tmp_path / "one").mkdir()
        (tmp_path / "two").mkdir()
        master = servers.enter_context(server(tmp_path / "one", "redis", f"port {first}", *common))
        replica = f"replicaof 127.0.0.1 {first}"
        servers.enter_context(server(tmp_path / "two", "redis", f"port {second}", replica, *common))
        for number, port in enumerate(watchers):
            folder = tmp_path / f"watcher{number}"
            folder.mkdir()
            servers.enter_context(server(folder, "sentinel", f"port {port}", *watched))
        settings = Settings.from_app(shop.app)
        through = servers.enter_context(open_redis(settings))
        other = servers.enter_context(redis.Redis(port=second, password=secret, db=1))
        wait_until(lambda: answers(through), "the Redis to answer through a sentinel")
        wait_until(
            lambda: cast("Any", other.info("replication"))["master_link_status"] == "up",
            "the replica of the master",
        )
        sentinel = servers.enter_context(redis.Redis(port=watchers[1], password=watching))
        wait_until(
            lambda: cast("Any", sentinel.sentinel_master("records"))["num-slaves"] == 1,
            "the second sentinel to know the replica",
            90,  # it asks the master every ten seconds
        )
        servers.enter_context(shop.worker("--num-cpus", "2"))
        ray.init(app=shop.app)
        try:
            wait_until(ray.nodes, "the node")
            till = Till.remote()
            assert ray.get([till.add.remote(1) for _ in range(50)], timeout=60)[-1] == 50
            through.wait(1, 5000)  # what the replica has not got would be lost
            master.kill()
            sent = [till.add.remote(1) for _ in range(50)]
            assert ray.get(sent, timeout=90)[-1] == 100, shop.logged()[-2000:]
            assert other.exists("ca:cur:" + actor_id_of(till).hex())
            assert ray.get(Till.remote().add.remote(1), timeout=60) == 1
            ray.install(shop.app)
            found = shop.app.AsyncResult(sent[-1].task_id())
            assert found.get(timeout=60) == 100, "Celery's own results, through the sentinels"
        finally:
            ray.shutdown()


def test_redis_cluster_is_refused(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with server(tmp_path, "redis", f"port {port}", "cluster-enabled yes", 'save ""'):
        url = f"redis://127.0.0.1:{port}/0"
        client = connect_redis(url)
        wait_until(lambda: answers(client), "the Redis to answer")
        with pytest.raises(ConfigurationError, match="Redis Cluster"):
            check_redis(client, Settings("amqp://127.0.0.1//", url, bytes(32)))
        client.close()
