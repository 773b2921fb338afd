"""What a Celery app's configuration says of its brokers, its remote control and its events.

The processes of actors belong to no app of the user's: each has a Celery app of its own.  One rule
says what that app is given: all that the user's app sets of its connections, its remote control,
its events and its time zone (:func:`inherited`), so that both are seen by the same tools.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from celery_actors.exceptions import ConfigurationError

__all__ = ["SAFE_SERIALIZERS", "broker_urls", "inherited", "redis_parameters", "without_password"]

_NAMESPACES = ("broker_", "control_", "event_")
_SINGLE = ("timezone", "enable_utc", "redis_backend_use_ssl", "result_backend_transport_options")
# Results of plain clients' calls are kept as the app keeps those of its tasks.
_OF_RESULTS = (
    "result_expires",
    "result_failure_expires",
    "result_serializer",
    "result_compression",
    "result_extended",
    "result_chord_expires",
    "result_chord_join_timeout",
)
# The addresses are kept apart.  An actor connects again for as long as it lives, and has no pool.
_NOT_INHERITED = frozenset(
    {
        "broker_url",
        "broker_read_url",
        "broker_write_url",
        "broker_connection_retry",
        "broker_connection_retry_on_startup",
        "broker_connection_max_retries",
        "broker_channel_error_retry",
        "broker_pool_limit",
        "broker_pool_acquire_timeout",
    }
)
#: Serializers of remote control that only read data: others run code of whoever writes a message.
SAFE_SERIALIZERS = ("json", "yaml", "msgpack")
_AMQP = ("amqp", "amqps", "pyamqp")
# Celery's defaults of these are for clients that wait for one reply at a time.
_ONLY_IF_SET = {
    "socket_timeout": "redis_socket_timeout",
    "retry_on_timeout": "redis_retry_on_timeout",
}
_NOT_OF_THE_CONNECTION = ("max_connections", "driver_info", "lib_name", "lib_version")


def inherited(conf: Any) -> dict[str, Any]:
    """Return the settings of an app that its actors' own Celery apps are given.

    :param conf: of a Celery app; names with a namespace or in Celery's old style count, too.
    """
    from celery.app.defaults import DEFAULTS

    names = [name for name in DEFAULTS if name.startswith(_NAMESPACES)]
    found = {
        name: getattr(conf, name)
        for name in (*names, *_SINGLE, *_OF_RESULTS)
        if name not in _NOT_INHERITED and _is_set(conf, name)
    }
    found["accept_content"] = _safe(conf.accept_content) or ["json"]
    if _is_set(conf, "result_accept_content") or _is_set(conf, "accept_content"):
        found["result_accept_content"] = list(conf.result_accept_content or conf.accept_content)
    if conf.task_serializer in found["accept_content"]:
        found["task_serializer"] = conf.task_serializer
    return found


def _is_set(conf: Any, name: str) -> bool:
    return bool(conf.value_set_for(name)) or (
        name == "timezone" and bool(conf.value_set_for("TIME_ZONE"))  # Django's own
    )


def _safe(accepted: Iterable[str]) -> list[str]:
    from kombu.serialization import registry

    names = [registry.type_to_name.get(name, name) for name in accepted]
    return [name for name in SAFE_SERIALIZERS if name == "json" or name in names]


def broker_urls(given: Any, conf: Any) -> str:
    """Return the addresses of RabbitMQ, separated by ";".

    :param given: one or several URLs, as Celery's ``broker_url`` has them.
    :raises ConfigurationError: one of them is no RabbitMQ.
    """
    parts = [given] if isinstance(given, str) else [str(url) for url in given]
    urls = [url.strip() for part in parts for url in part.split(";") if url.strip()]
    for url in urls:
        transport = url.partition("://")[0] if "://" in url else conf.get("broker_transport")
        if transport and transport not in _AMQP:
            raise ConfigurationError(
                "the broker of celery_actors must be a RabbitMQ (amqp:// or amqps://), and "
                f"broker_url or CELERY_BROKER_URL names {transport}://: mailboxes need queues "
                "that are consumed by one process, confirm what was done and stay in their order. "
                "Set it to the RabbitMQ of the cluster (only results may be in Redis)"
            )
    return ";".join(urls)


def redis_parameters(app: Any, backend: Any) -> tuple[str, dict[str, Any]]:
    """Return the address of a Redis, and how redis-py is to connect to it.

    Celery's own backend reads the address and the ``redis_*`` settings, so that every form of
    them that Celery knows is understood here as it is there.

    :param backend: what ``result_backend`` says: a URL, an alias, or a class.
    :raises ConfigurationError: it is no Redis, or its settings contradict each other.
    """
    from celery.backends.redis import RedisBackend

    cls, url = _backend_class(app, backend)
    if _says_nothing_of_certificates(app.conf, url):  # as redis-py does, where Celery refuses
        url = f"{url}{'&' if '?' in str(url) else '?'}ssl_cert_reqs=required"
    try:
        made = cls(app=app, url=url)
        parameters = dict(made.connparams)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"the settings of the Redis at {without_password(url or '')} can't be used: {error} "
            "(result_backend, redis_backend_use_ssl)"
        ) from error
    for name in _NOT_OF_THE_CONNECTION:
        parameters.pop(name, None)
    for name, setting in _ONLY_IF_SET.items():
        if not _is_set(app.conf, setting):
            parameters.pop(name, None)
    options = app.conf.get("result_backend_transport_options") or {}
    if "hosts" in parameters:
        parameters["sentinel"] = {
            name: options[name]
            for name in ("master_name", "sentinel_kwargs", "min_other_sentinels")
            if options.get(name) is not None
        }
    assert issubclass(cls, RedisBackend)
    return url or _url_of(parameters), {k: v for k, v in parameters.items() if v is not None}


def _says_nothing_of_certificates(conf: Any, url: str | None) -> bool:
    return (
        url is not None
        and url.startswith("rediss://")
        and "ssl_cert_reqs" not in url
        and not conf.redis_backend_use_ssl
    )


def _backend_class(app: Any, backend: Any) -> tuple[Any, str | None]:
    """Return the class of a Redis backend, and the URL that it is given."""
    from celery.app.backends import by_name, by_url
    from celery.backends.redis import RedisBackend
    from celery.exceptions import ImproperlyConfigured

    try:
        cls, url = by_url(backend, app.loader)
        if not issubclass(cls, RedisBackend) and url and urlsplit(url).scheme in _REDIS:
            cls = by_name(urlsplit(url).scheme, app.loader)  # a backend that wraps a Redis
    except (ImproperlyConfigured, ImportError, AttributeError, TypeError) as error:
        raise _no_redis(backend) from error
    if not issubclass(cls, RedisBackend):
        raise _no_redis(backend)
    return cls, url


_REDIS = ("redis", "rediss", "sentinel")


def _no_redis(backend: Any) -> ConfigurationError:
    shown = str(backend).partition("://")[0] if "://" in str(backend) else repr(backend)
    return ConfigurationError(
        f"actors keep their records and results in a Redis, and result_backend is {shown}: name "
        "their Redis in actors_redis_url or CELERY_ACTORS_REDIS_URL (redis://, rediss:// or "
        "sentinel://). Ordinary tasks keep the backend that they have"
    )


def _url_of(parameters: dict[str, Any]) -> str:
    """Return the address of a backend that is configured without a URL."""
    return f"redis://{parameters.get('host')}:{parameters.get('port')}/{parameters.get('db', 0)}"


def without_password(urls: str) -> str:
    """Return addresses as they may be shown: without user names, passwords and options."""
    shown = []
    for url in urls.split(";"):
        scheme, separator, rest = url.rpartition("://")
        shown.append(f"{scheme}{separator}{rest.partition('?')[0].rpartition('@')[2]}")
    return ", ".join(shown)
