"""What of an app's configuration its actors are given, and the addresses of both brokers."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from redis import SSLConnection, UnixDomainSocketConnection

from celery_actors.client.broker import Broker
from celery_actors.config import Settings
from celery_actors.exceptions import ConfigurationError
from celery_actors.store.connection import connect_redis, open_redis
from celery_actors.worker.prepared import Prepared

_REDIS = "redis://127.0.0.1:1/0"


@pytest.fixture(autouse=True)
def only_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery prefers its environment variables to what an app says."""
    for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "CELERY_ACTORS_REDIS_URL"):
        monkeypatch.delenv(name, raising=False)


def settings_of(broker: Any = "amqp://a//", backend: Any = _REDIS, **conf: Any) -> Settings:
    app = Celery("shop", broker=broker, backend=backend, set_as_current=False)
    app.conf.update(conf, actors_key="0123456789abcdef")
    return Settings.from_app(app)


@pytest.mark.parametrize("broker", ["amqp://a//;amqp://b//", ["amqp://a//", "amqp://b//"]])
def test_several_brokers_are_tried_one_after_the_other(broker: Any) -> None:
    connection = Broker.of(settings_of(broker)).connection(heartbeat=0)
    tried = [connection.hostname]
    for _ in range(2):
        connection.maybe_switch_next()
        tried.append(connection.hostname)
    assert tried == ["a", "b", "a"]


def test_mailboxes_are_read_where_broker_read_url_says() -> None:
    settings = settings_of(broker_read_url="amqp://reader//", broker_write_url="amqp://writer//")
    assert Broker.of(settings).urls == ("amqp://writer//",)
    assert Broker.to_read(settings).urls == ("amqp://reader//",)


def test_each_of_several_brokers_is_checked_for_its_own_name() -> None:
    options = {"server_hostname": None}
    settings = settings_of("amqps://a//;amqps://b//", broker_use_ssl=options)
    connection = Broker.of(settings).connection(heartbeat=0)
    connection.ssl["server_hostname"] = "a"  # as kombu does when it connects
    connection.maybe_switch_next()
    assert connection.hostname == "b"
    assert connection.ssl["server_hostname"] is None


def test_the_port_of_one_broker_is_not_the_others() -> None:
    broker = Broker.of(settings_of("amqp://a:5673/shop;amqps://b"))
    connection = broker.connection(heartbeat=0)
    assert (connection.port, connection.virtual_host) == (5673, "shop")
    connection.maybe_switch_next()
    assert (connection.port, connection.virtual_host) == (None, "/")
    assert list(broker.addresses()) == [("a", 5673), ("b", 5671)]


def test_options_of_the_brokers_connection() -> None:
    connection = Broker.of(
        settings_of(
            broker_login_method="EXTERNAL",
            broker_connection_timeout=1.5,
            broker_heartbeat=2,
            broker_transport_options={"client_properties": {"a": "b"}, "confirm_publish": True},
        )
    ).connection(heartbeat=8, least=6)
    assert connection.login_method == "EXTERNAL"
    assert connection.connect_timeout == 1.5
    assert connection.heartbeat == 6
    assert connection.transport_options == {"client_properties": {"a": "b"}}


def test_what_can_not_be_sent_to_actors() -> None:
    def backwards(urls: list[str]) -> Iterator[str]:
        return reversed(urls)

    settings = settings_of("amqp://a//;amqp://b//", broker_failover_strategy=backwards)
    assert Broker.of(settings).connection(heartbeat=0).failover_strategy is backwards
    assert "broker_failover_strategy" not in settings.for_actors().app_settings
    with pytest.raises(ConfigurationError, match="can't be given to the processes of actors"):
        settings_of(broker_password=lambda: "secret").for_actors()


@pytest.mark.parametrize(
    "broker", ["redis://h", "sqs://", "memory://", "filesystem://", ["amqp://a", "redis://:pw@b"]]
)
def test_another_broker_than_rabbitmq_is_refused(broker: Any) -> None:
    with pytest.raises(ConfigurationError, match="must be a RabbitMQ") as caught:
        settings_of(broker)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("broker", "conf"),
    [
        ("amqp://a:port//", {}),
        ("amqp://a//;amqp://b//", {"broker_failover_strategy": "backwards"}),
    ],
)
def test_a_malformed_address_or_strategy_is_refused(broker: str, conf: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="broker_"):
        Broker.of(settings_of(broker, **conf)).connection(heartbeat=0)


def test_broker_transport_is_looked_at_where_the_url_has_none() -> None:
    with pytest.raises(ConfigurationError, match="names redis://"):
        settings_of("somewhere", broker_transport="redis")


def test_actors_have_what_the_app_says_of_control_and_events() -> None:
    conf = {
        "control_exchange": "shop",
        "control_queue_ttl": 7.0,
        "event_exchange": "shop.ev",
        "event_queue_prefix": "shop.queue",
        "enable_utc": False,
        "timezone": "Asia/Tokyo",
        "broker_heartbeat": 3,
    }
    actors = Prepared.of(settings_of(**conf)).worker.app
    assert {name: actors.conf[name] for name in conf} == conf
    assert actors.control.mailbox.exchange.name == "shop.pidbox"
    # Where callers of another app send an order to cancel.
    assert actors.control.mailbox.get_queue("A.1@host").name == "A.1@host.celery.pidbox"


def test_settings_by_namespace_and_in_the_old_style_count() -> None:
    app = Celery("shop", set_as_current=False)
    app.config_from_object(
        {
            "SHOP_BROKER_URL": "amqp://a//",
            "SHOP_RESULT_BACKEND": _REDIS,
            "SHOP_ACTORS_KEY": "0123456789abcdef",
            "SHOP_CONTROL_EXCHANGE": "shop",
            "SHOP_BROKER_HEARTBEAT": 120,
        },
        namespace="SHOP",
    )
    settings = Settings.from_app(app)
    assert settings.app_settings["control_exchange"] == "shop"
    assert settings.app_settings["broker_heartbeat"] == 120, "it is said, though it is the default"
    old = Celery("old", set_as_current=False)
    old.config_from_object({"BROKER_URL": "amqp://a//", "BROKER_LOGIN_METHOD": "EXTERNAL"})
    old.conf.update(actors_key="0123456789abcdef")
    old.conf.result_backend = _REDIS
    assert Settings.from_app(old).app_settings["broker_login_method"] == "EXTERNAL"


def test_what_is_not_said_stays_this_packages_own() -> None:
    settings = settings_of()
    assert settings.app_settings == {"accept_content": ["json"], "task_serializer": "json"}
    assert Prepared.of(settings).worker.app.conf.broker_heartbeat == 8


def test_remote_control_of_an_actor_takes_no_pickles() -> None:
    settings = settings_of(
        accept_content=["application/x-yaml", "pickle"], task_serializer="pickle"
    )
    assert settings.app_settings["accept_content"] == ["json", "yaml"]
    assert "task_serializer" not in settings.app_settings


@pytest.mark.parametrize("said", ["CERT_REQUIRED", "required"])
@pytest.mark.parametrize("where", ["url", "setting"])
def test_tls_of_redis_as_celery_writes_it(said: str, where: str) -> None:
    if where == "url":
        settings = settings_of(
            backend=f"rediss://h:1/0?ssl_cert_reqs={said}&ssl_ca_certs=%2Fca%20x.pem"
        )
    else:
        options = {"ssl_cert_reqs": said, "ssl_ca_certs": "/ca x.pem"}
        settings = settings_of(backend="redis://h:1/0", redis_backend_use_ssl=options)
    pool = open_redis(settings).connection_pool
    assert issubclass(pool.connection_class, SSLConnection)
    assert pool.connection_kwargs["ssl_cert_reqs"] == ssl.CERT_REQUIRED
    assert pool.connection_kwargs["ssl_ca_certs"] == "/ca x.pem"


def test_a_certificate_is_required_where_nothing_is_said() -> None:
    pool = open_redis(settings_of(backend="rediss://h:1/0")).connection_pool
    assert pool.connection_kwargs["ssl_cert_reqs"] == ssl.CERT_REQUIRED


def test_options_of_redis_that_contradict_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="result_backend"):
        settings_of(backend="rediss://h:1/0?ssl_cert_reqs=perhaps")
    with pytest.raises(ConfigurationError, match="redis_backend_use_ssl"):
        settings_of(backend="redis://h:1/0", redis_backend_use_ssl=True)


def test_user_password_and_database_of_redis() -> None:
    settings = settings_of(backend="redis://shop:p%40ss%3Aw%2Fo%25r+d@h:6380/3")
    kwargs = open_redis(settings).connection_pool.connection_kwargs
    assert (kwargs["username"], kwargs["password"]) == ("shop", "p@ss:w/o%r+d")
    assert (kwargs["host"], kwargs["port"], kwargs["db"]) == ("h", 6380, 3)


def test_redis_behind_a_unix_socket() -> None:
    pool = open_redis(settings_of(backend="redis+socket:///run/r.sock?virtual_host=2"))
    assert issubclass(pool.connection_pool.connection_class, UnixDomainSocketConnection)
    assert pool.connection_pool.connection_kwargs["path"] == "/run/r.sock"
    assert pool.connection_pool.connection_kwargs["db"] == 2


def test_several_sentinels_with_passwords_of_their_own() -> None:
    settings = settings_of(
        backend="sentinel://user:secret@one:1/2;sentinel://user:secret@two:2/2",
        result_backend_transport_options={
            "master_name": "records",
            "sentinel_kwargs": {"password": "watch"},
        },
    )
    client = open_redis(settings)
    pool: Any = client.connection_pool
    assert pool.service_name == "records"
    kwargs = pool.connection_kwargs
    assert (kwargs["username"], kwargs["password"], kwargs["db"]) == ("user", "secret", 2)
    watchers = [w.connection_pool.connection_kwargs for w in pool.sentinel_manager.sentinels]
    assert [(w["host"], w["port"], w["password"]) for w in watchers] == [
        ("one", 1, "watch"),
        ("two", 2, "watch"),
    ]


@pytest.mark.parametrize(
    "backend",
    [
        "celery.backends.redis:RedisBackend+redis://:a+b@h:1/0",
        "celery.backends.cache:CacheBackend+redis://:a+b@h:1/0",
    ],
)
def test_a_custom_backend_over_a_redis(backend: str) -> None:
    settings = settings_of(backend=backend)
    kwargs = open_redis(settings).connection_pool.connection_kwargs
    assert (kwargs["host"], kwargs["password"]) == ("h", "a+b")


@pytest.mark.parametrize(
    "backend",
    ["rpc://", "db+sqlite:///x", "django-db", "cache+memory://", "file:///tmp/x", "no.such:Class"],
)
def test_a_backend_without_redis_names_the_setting_to_make(backend: str) -> None:
    with pytest.raises(ConfigurationError, match="actors_redis_url"):
        settings_of(backend=backend)
    settings = settings_of(backend=backend, actors_redis_url="redis://h:7/1")
    assert settings.result_backend == "redis://h:7/1"


def test_a_url_alone_is_read_by_redis_py() -> None:
    kwargs = connect_redis("rediss://:pw@h:1/4").connection_pool.connection_kwargs
    assert (kwargs["host"], kwargs["password"], kwargs["db"]) == ("h", "pw", 4)
