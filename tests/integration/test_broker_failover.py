"""Several addresses of the broker, some of which are dead or die."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from broker_listeners import close_listener, listener
from shop import Shop
from waiting import wait_until

import celery_actors as ray
from celery_actors.exceptions import ConfigurationError, ConnectionFailed
from celery_actors.local import PrivateCluster
from celery_actors.local.ports import free_ports

_DEAD = "amqp://guest:guest@127.0.0.1:1//"


@ray.remote
class Till:
    def __init__(self) -> None:
        self.sum = 0

    def add(self, amount: int) -> int:
        self.sum += amount
        return self.sum

    def through(self, other: Any) -> int:
        """Call another actor: by this process's own publisher."""
        result: int = ray.get(other.add.remote(1), timeout=60)
        return result


def _works() -> None:
    wait_until(ray.nodes, "the node")
    one, other = Till.remote(), Till.remote()
    assert ray.get(one.through.remote(other), timeout=60) == 1


@pytest.mark.parametrize("order", ["dead first", "live first"])
@pytest.mark.parametrize("form", ["text", "list"])
def test_drivers_nodes_and_actors_find_the_broker_that_is_there(
    brokers: PrivateCluster, order: str, form: str, tmp_path: Path
) -> None:
    live = brokers.address.broker_url
    urls = [_DEAD, live] if order == "dead first" else [live, _DEAD]
    shop = Shop(tmp_path, brokers, {"broker_url": ";".join(urls) if form == "text" else urls})
    with shop.worker("--num-cpus", "2"):
        ray.init(app=shop.app)
        try:
            _works()
        finally:
            ray.shutdown()


def test_mailboxes_are_read_at_broker_read_url(brokers: PrivateCluster, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    live = brokers.address.broker_url
    reading = f"{live.rpartition(':')[0]}:{port}//"
    shop = Shop(
        tmp_path,
        brokers,
        {"broker_url": live, "broker_read_url": reading, "broker_write_url": live},
    )
    with listener(brokers, port), shop.worker("--num-cpus", "2"):
        ray.init(app=shop.app)
        try:
            _works()
        finally:
            ray.shutdown()


@pytest.mark.parametrize("strategy", ["round-robin", "shuffle"])
def test_calls_go_on_when_the_broker_in_use_goes(
    brokers: PrivateCluster, strategy: str, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    live = brokers.address.broker_url
    first = f"{live.rpartition(':')[0]}:{port}//"
    settings = {"broker_url": [first, _DEAD, live], "broker_failover_strategy": strategy}
    shop = Shop(tmp_path, brokers, settings)
    with listener(brokers, port), shop.worker("--num-cpus", "2"):
        ray.init(app=shop.app)
        try:
            wait_until(ray.nodes, "the node")
            one, other = Till.remote(), Till.remote()
            assert ray.get(one.through.remote(other), timeout=60) == 1
            sent = [one.add.remote(1) for _ in range(400)]
            ray.get(sent[100], timeout=60)
            close_listener(brokers, port)
            sent += [one.add.remote(1) for _ in range(400)]
            assert ray.get(sent, timeout=90) == list(range(1, 801))
            assert ray.get(one.through.remote(other), timeout=60) == 2
            assert ray.get(Till.remote().add.remote(5), timeout=60) == 5, "the node goes on, too"
        finally:
            ray.shutdown()


def test_a_strategy_of_the_apps_own(brokers: PrivateCluster, tmp_path: Path) -> None:
    shop = Shop(tmp_path, brokers, {"broker_url": [_DEAD, brokers.address.broker_url]})
    asked: list[str] = []

    def backwards(urls: list[str]) -> Any:
        while True:
            for url in reversed(urls):
                asked.append(url)
                yield url

    shop.app.conf.broker_failover_strategy = backwards
    with shop.worker("--num-cpus", "2"):
        ray.init(app=shop.app)
        try:
            _works()
            assert asked
        finally:
            ray.shutdown()


def test_all_addresses_are_named_when_none_answers(brokers: PrivateCluster, tmp_path: Path) -> None:
    urls = [_DEAD, "amqp://guest:secret@127.0.0.1:2//"]
    shop = Shop(tmp_path, brokers, {"broker_url": urls})
    with pytest.raises(ConnectionFailed) as caught:
        ray.init(app=shop.app)
    assert "amqp://127.0.0.1:1//, amqp://127.0.0.1:2//" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("broker", ["redis://127.0.0.1:1/0", "filesystem://", "memory://"])
def test_another_broker_is_refused_at_once(
    brokers: PrivateCluster, broker: str, tmp_path: Path
) -> None:
    shop = Shop(tmp_path, brokers, {"broker_url": broker})
    with pytest.raises(ConfigurationError, match="must be a RabbitMQ"):
        ray.init(app=shop.app)
    with shop.worker() as worker:
        wait_until(lambda: worker.poll() is not None, "the end of the worker")
        assert worker.returncode != 0
    assert "must be a RabbitMQ" in shop.logged()
