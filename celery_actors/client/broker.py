"""Connections to RabbitMQ, as the app's settings describe it: one address, or several.

All connections of this package are made here, whoever opens them, so that what Celery documents
(``broker_use_ssl``, ``broker_login_method``, ``broker_failover_strategy`` and the others) holds
for a driver's calls, for node workers and for the processes of actors alike.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import kombu
from amqp.exceptions import AccessRefused, AMQPError

from celery_actors.app_settings import without_password
from celery_actors.config import Settings
from celery_actors.exceptions import ConfigurationError, ConnectionFailed

__all__ = ["LOST", "Broker", "BrokerConnection", "explain_amqp"]

#: What a lost connection may raise.
LOST: tuple[type[Exception], ...] = (OSError, AMQPError, AttributeError)

# By kombu's name for each: what Celery calls it.
_OPTIONS = {
    "userid": "broker_user",
    "password": "broker_password",
    "virtual_host": "broker_vhost",
    "port": "broker_port",
    "login_method": "broker_login_method",
    "failover_strategy": "broker_failover_strategy",
    "ssl": "broker_use_ssl",
    "connect_timeout": "broker_connection_timeout",
    "heartbeat": "broker_heartbeat",
}
_CONNECT_SECONDS = 5.0
_SECURE = "amqps://"


class BrokerConnection(kombu.Connection):  # type: ignore[misc]  # untyped base
    """A connection of kombu's, through py-amqp also where another library is installed."""

    def _init_params(self, *args: Any, **params: Any) -> None:
        """Take the parameters of an address, of the first and of each that it switches to."""
        # kombu writes the first broker's name into it, which the next ones would be checked for.
        options = params.get("ssl")
        params["ssl"] = dict(options) if isinstance(options, dict) else options
        if params.get("transport") in (None, "amqp"):
            params["transport"] = "pyamqp"
        # Else those of the address before it hold for one that names none.
        self.port, self.virtual_host = None, "/"
        super()._init_params(*args, **params)


@dataclass(frozen=True, slots=True)
class Broker:
    """One RabbitMQ (or a cluster of several) and how to connect to it.

    :ivar urls: its addresses, in the order in which they are tried.
    :ivar options: Celery's settings of connections to it.
    """

    urls: tuple[str, ...]
    options: Mapping[str, Any]

    @classmethod
    def of(cls, settings: Settings) -> Broker:
        """Return where calls are published."""
        return cls(tuple(settings.broker_url.split(";")), settings.app_settings)

    @classmethod
    def to_read(cls, settings: Settings) -> Broker:
        """Return where mailboxes are consumed: ``broker_read_url``, where there is one."""
        urls = settings.broker_read_url or settings.broker_url
        return cls(tuple(urls.split(";")), settings.app_settings)

    @property
    def secure(self) -> bool:
        """Whether any of its addresses is spoken to with TLS."""
        return bool(self.options.get("broker_use_ssl")) or any(
            url.startswith(_SECURE) for url in self.urls
        )

    def connection(
        self,
        *,
        heartbeat: float,
        least: float = 0.0,
        kind: type[BrokerConnection] = BrokerConnection,
    ) -> BrokerConnection:
        """Return a connection that is not opened yet.

        :param heartbeat: in seconds, unless ``broker_heartbeat`` says otherwise.
        :param least: the shortest that its user can keep.
        :param kind: its class.
        :raises ConfigurationError: an address or a setting is malformed.
        """
        options: dict[str, Any] = {
            "heartbeat": heartbeat,
            "connect_timeout": _CONNECT_SECONDS,
            "ssl": False,
        }
        for name, setting in _OPTIONS.items():
            if self.options.get(setting) is not None:
                options[name] = self.options[setting]
        options["heartbeat"] = options["heartbeat"] and max(options["heartbeat"], least)
        transport_options = dict(self.options.get("broker_transport_options") or {})
        # What confirms a message here is its result: the broker's word would cost a round trip.
        transport_options.pop("confirm_publish", None)
        try:
            return kind(list(self.urls), transport_options=transport_options, **options)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"broker_url or another broker_* setting can't be used: {error!r}"
            ) from error

    def addresses(self) -> Iterator[tuple[str, int]]:
        """Return host and port of each address."""
        for url in self.urls:
            one = Broker((url,), self.options)
            parameters = one.connection(heartbeat=0)
            port = parameters.port or (5671 if one.secure else 5672)
            yield parameters.hostname or "127.0.0.1", int(port)

    def __str__(self) -> str:
        return without_password(";".join(self.urls))


def explain_amqp(broker: Broker, error: BaseException) -> ConnectionFailed:
    """Turn a connection error into one that says what was tried and what to do."""
    if isinstance(error, AccessRefused):
        hint = "it refused the user or password: check those in broker_url or CELERY_BROKER_URL"
    elif isinstance(error, ssl.SSLCertVerificationError):
        hint = (
            "its certificate was refused: broker_use_ssl must name the authority that signed it "
            "({'ca_certs': '/path/ca.pem', 'cert_reqs': ssl.CERT_REQUIRED}), and the host in "
            "broker_url (or broker_use_ssl['server_hostname']) must be a name in the certificate"
        )
    elif isinstance(error, ssl.SSLError):
        hint = (
            "TLS failed: check that the port in broker_url is the one for TLS (5671), and "
            "'certfile', 'keyfile' and 'ssl_version' in broker_use_ssl"
        )
    else:
        secure = "" if broker.secure else "; a port for TLS needs amqps:// or broker_use_ssl"
        hint = (
            "check that RabbitMQ runs and that broker_url or CELERY_BROKER_URL names it "
            f"(amqp://user:password@host:port/vhost{secure})"
        )
    return ConnectionFailed(f"cannot use RabbitMQ at {broker}: {error}; {hint}")
