"""Both servers over TLS, in the forms that Celery documents, and wrong certificates."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import redis
from broker_listeners import secure_listener
from certificates import Authority, Certificate
from shop import Shop
from waiting import wait_until, wait_until_alive

import celery_actors as ray
from celery_actors.exceptions import ConnectionFailed, TaskCancelledError
from celery_actors.local import PrivateCluster
from celery_actors.local.ports import free_ports


@ray.remote
class Till:
    def __init__(self) -> None:
        self.sum = 0

    def add(self, amount: int) -> int:
        self.sum += amount
        return self.sum


@ray.remote
class Waiter:
    async def idle(self) -> None:
        await asyncio.Event().wait()


@ray.remote
def double(n: int) -> int:
    return 2 * n


@dataclass(frozen=True, slots=True)
class Servers:
    """Both with TLS.  The `wrong` authority signed neither of them.

    :ivar login: of the broker's URL, as `user:password`.
    """

    cluster: PrivateCluster
    right: Authority
    wrong: Authority
    client: Certificate
    login: str
    amqp: int
    redis: int
    elsewhere_amqp: int
    elsewhere_redis: int

    @property
    def ca(self) -> str:
        return str(self.right.own.cert)

    def amqps(self, port: int = 0, scheme: str = "amqps") -> str:
        return f"{scheme}://{self.login}@localhost:{port or self.amqp}//"

    def rediss(self, query: str, port: int = 0, scheme: str = "rediss") -> str:
        return f"{scheme}://localhost:{port or self.redis}/0{query}"


def _redis(folder: Path, port: int, own: Certificate, ca: Path) -> subprocess.Popen[bytes]:
    words = ("--port", "0", "--tls-port", port, "--tls-cert-file", own.cert, "--tls-key-file")
    more = (own.key, "--tls-ca-cert-file", ca, "--tls-auth-clients", "optional")
    return subprocess.Popen(
        ["redis-server", *map(str, (*words, *more, "--save", "", "--dir", folder))],
        stdout=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def servers(brokers: PrivateCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("tls")
    right, wrong = Authority(folder, "right"), Authority(folder, "wrong")
    here = right.sign("here", "DNS:localhost,IP:127.0.0.1")
    elsewhere = right.sign("elsewhere", "DNS:elsewhere.example")
    amqp_port, redis_port, other_amqp, other_redis = free_ports(4)
    login = urlsplit(brokers.address.broker_url).netloc.rpartition("@")[0]
    found = Servers(
        *(brokers, right, wrong, right.sign("client", "DNS:client"), login),
        *(amqp_port, redis_port, other_amqp, other_redis),
    )

    def erlang(own: Certificate) -> str:
        return (
            f'{{cacertfile, "{found.ca}"}}, {{certfile, "{own.cert}"}}, {{keyfile, "{own.key}"}},'
            " {verify, verify_peer}, {fail_if_no_peer_cert, false}"
        )

    started = [
        _redis(folder, redis_port, here, right.own.cert),
        _redis(folder, other_redis, elsewhere, right.own.cert),
    ]
    try:
        for port in (redis_port, other_redis):
            url = f"rediss://localhost:{port}/0?ssl_cert_reqs=none"
            with redis.Redis.from_url(url) as client:
                wait_until(lambda client=client: _answers(client), "Redis to answer over TLS")
        with (
            secure_listener(brokers, amqp_port, erlang(here)),
            secure_listener(brokers, other_amqp, erlang(elsewhere)),
        ):
            yield found
    finally:
        for process in started:
            process.kill()
            process.wait()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def _forms(servers: Servers) -> dict[str, dict[str, Any]]:
    """Celery's own forms, of the broker and the backend in pairs."""
    ca, quoted = servers.ca, quote(servers.ca, safe="")
    key, cert = str(servers.client.key), str(servers.client.cert)
    return {
        "urls": {
            "broker_url": servers.amqps(),
            "broker_use_ssl": {"ca_certs": ca, "cert_reqs": ssl.CERT_REQUIRED},
            "result_backend": servers.rediss(f"?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={quoted}"),
        },
        "settings": {
            "broker_url": servers.amqps(scheme="amqp"),
            "broker_use_ssl": {
                "ca_certs": ca,
                "cert_reqs": ssl.CERT_REQUIRED,
                "certfile": cert,
                "keyfile": key,
                "ssl_version": ssl.PROTOCOL_TLS_CLIENT,
                "server_hostname": None,
            },
            "result_backend": servers.rediss("", scheme="redis"),
            "redis_backend_use_ssl": {
                "ssl_cert_reqs": ssl.CERT_REQUIRED,
                "ssl_ca_certs": ca,
                "ssl_certfile": cert,
                "ssl_keyfile": key,
            },
        },
        "context": {
            "broker_url": servers.amqps(),
            "broker_use_ssl": {
                "context": {"cafile": ca, "check_hostname": True},
                "server_hostname": "localhost",
            },
            "result_backend": servers.rediss(""),
            "redis_backend_use_ssl": {"ssl_cert_reqs": "required", "ssl_ca_certs": ca},
        },
        "unchecked": {
            "broker_url": servers.amqps(),
            "broker_use_ssl": {"cert_reqs": ssl.CERT_NONE},
            "result_backend": servers.rediss("?ssl_cert_reqs=none"),
        },
    }


@pytest.mark.parametrize("form", ["urls", "settings", "context", "unchecked"])
def test_everything_goes_over_tls(servers: Servers, form: str, tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop", servers.cluster, _forms(servers)[form])
    with shop.worker("--num-cpus", "2"):
        ray.init(app=shop.app)
        try:
            wait_until(ray.nodes, "the node")
            till = Till.remote()
            assert ray.get([till.add.remote(1) for _ in range(300)], timeout=60)[-1] == 300
            assert len(ray.get(ray.put(b"x" * 300_000), timeout=60)) == 300_000
            assert ray.get(double.remote(21), timeout=60) == 42
            waiter = Waiter.remote()
            ref = waiter.idle.remote()
            wait_until_alive(waiter)
            ray.cancel(ref)
            with pytest.raises(TaskCancelledError):
                ray.get(ref, timeout=60)
            wait_until(lambda: shop.answers("Till."), "the actor's answer to Celery's control")
        finally:
            ray.shutdown()


def _refused(servers: Servers, tmp_path: Path, **settings: Any) -> str:
    shop = Shop(tmp_path / "shop", servers.cluster, {**_forms(servers)["urls"], **settings})
    with pytest.raises(ConnectionFailed) as caught:
        ray.init(app=shop.app)
    assert not ray.is_initialized()
    return str(caught.value)


def test_a_broker_of_an_unknown_authority_is_refused(servers: Servers, tmp_path: Path) -> None:
    options = {"ca_certs": str(servers.wrong.own.cert), "cert_reqs": ssl.CERT_REQUIRED}
    text = _refused(servers, tmp_path, broker_use_ssl=options)
    assert "RabbitMQ" in text
    assert "broker_use_ssl" in text
    assert "ca_certs" in text


def test_a_broker_of_another_name_is_refused(servers: Servers, tmp_path: Path) -> None:
    options = {
        "ca_certs": servers.ca,
        "cert_reqs": ssl.CERT_REQUIRED,
        "server_hostname": "localhost",
    }
    url = servers.amqps(servers.elsewhere_amqp)
    text = _refused(servers, tmp_path, broker_url=url, broker_use_ssl=options)
    assert "server_hostname" in text
    assert servers.login.partition(":")[2] not in text, "the password is shown"


def test_a_redis_of_an_unknown_authority_is_refused(servers: Servers, tmp_path: Path) -> None:
    ca = quote(str(servers.wrong.own.cert), safe="")
    text = _refused(
        servers,
        tmp_path,
        result_backend=servers.rediss(f"?ssl_cert_reqs=required&ssl_ca_certs={ca}"),
    )
    assert "Redis" in text
    assert "ssl_ca_certs" in text


def test_a_redis_of_another_name_is_refused(servers: Servers, tmp_path: Path) -> None:
    ca = quote(servers.ca, safe="")
    url = servers.rediss(f"?ssl_cert_reqs=required&ssl_ca_certs={ca}", port=servers.elsewhere_redis)
    text = _refused(servers, tmp_path, result_backend=url)
    assert "the host in result_backend must be a name in the certificate" in text


def test_a_node_says_which_certificate_it_refuses(servers: Servers, tmp_path: Path) -> None:
    ca = quote(str(servers.wrong.own.cert), safe="")
    url = servers.rediss(f"?ssl_cert_reqs=required&ssl_ca_certs={ca}")
    shop = Shop(
        tmp_path / "shop", servers.cluster, {**_forms(servers)["urls"], "result_backend": url}
    )
    with shop.worker():
        wait_until(lambda: "ssl_ca_certs" in shop.logged(), "the node's word on its Redis")


def test_a_port_without_tls_says_so(servers: Servers, tmp_path: Path) -> None:
    plain = servers.cluster.address
    text = _refused(servers, tmp_path, result_backend=f"redis://localhost:{servers.redis}/0")
    assert "rediss://" in text
    url = plain.broker_url.replace("amqp://", "amqps://")
    text = _refused(servers, tmp_path, broker_url=url)
    assert "the one for TLS" in text
