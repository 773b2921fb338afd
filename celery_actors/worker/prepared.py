"""What all actor processes of a node have in common, made before they fork.

What a process makes after the fork is memory of its own, and so is each page of shared memory
that it writes to, if only to reference counts.  What is made before the fork is there once for
all of them (some 1.5 MB).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from celery import Celery
from celery.app.control import Control
from kombu import Queue
from kombu.pidbox import Mailbox as PidboxMailbox

from celery_actors.client.broker import Broker
from celery_actors.client.stores import Stores
from celery_actors.config import Settings
from celery_actors.ids import control_queue_name
from celery_actors.worker.mailbox_worker import MailboxWorker

__all__ = ["Prepared"]

# Those of this package and of what it is made of.
_OWN_LOGGERS = ("celery_actors", "celery", "kombu", "amqp")
_LINE = "[%(asctime)s: %(levelname)s/%(hostname)s] %(message)s"


@dataclass(frozen=True, slots=True)
class Prepared:
    """Nothing in it is connected, and no thread of it runs."""

    settings: Settings
    worker: MailboxWorker
    stores: Stores
    log: logging.Handler

    @classmethod
    def of(cls, settings: Settings) -> Prepared:
        """Make what depends on nothing but the cluster's settings."""
        app = _make_app(settings)
        app.finalize()
        worker = MailboxWorker(app, settings)
        # Celery makes these when they are first asked for.
        for part in (app.amqp.queues, app.backend, app.control.mailbox, app.events, app.log):
            assert part is not None
        log = logging.StreamHandler()
        log.setFormatter(_NamedFormatter(_LINE))
        # Here, not in the children: logging then writes to every logger that there is.
        for name in _OWN_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)  # whatever the user's root logger has
        return cls(settings, worker, Stores.of(settings), log)

    def log_as(self, hostname: str) -> None:
        """Have this package log to standard error from now on, as that actor."""
        formatter = self.log.formatter
        assert isinstance(formatter, _NamedFormatter)
        formatter.hostname = hostname
        # The root logger is the user's: basicConfig() does nothing where it has a handler.
        for name in _OWN_LOGGERS:
            own = logging.getLogger(name)
            own.propagate = False
            if self.log not in own.handlers:
                own.addHandler(self.log)


class _NamedFormatter(logging.Formatter):
    hostname = ""

    def format(self, record: logging.LogRecord) -> str:
        record.hostname = self.hostname
        return super().format(record)


class _Mailbox(PidboxMailbox):  # type: ignore[misc]
    def get_queue(self, hostname: str) -> Queue:
        queue = super().get_queue(hostname)
        queue.name = control_queue_name(hostname)
        return queue


class _Control(Control):  # type: ignore[misc]
    """Remote control whose queues callers of any app find."""

    Mailbox = _Mailbox


class _App(Celery):  # type: ignore[misc]
    """Publishes to its node's broker, whatever CELERY_BROKER_URL is in a runtime environment."""

    broker: Broker

    def connection_for_write(self, url: Any = None, **options: Any) -> Any:
        return super().connection_for_write(url or list(self.broker.urls), **options)


def _make_app(settings: Settings) -> Celery:
    """Return the Celery app of an actor process."""
    app = _App("celery_actors", set_as_current=True, control=_Control)
    app.broker = Broker.of(settings)
    app.conf.update(
        # Not the two others: `inspect conf` would show their passwords.
        broker_url=settings.broker_url,
        # For its forms; it is given a client of this process (see worker.plain_results).
        result_backend="redis://",
        result_backend_thread_safe=True,  # one for all threads that run calls
        accept_content=["json"],
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        broker_heartbeat=8,
        worker_enable_prefetch_count_reduction=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_detect_quorum_queues=False,
        worker_enable_remote_control=True,
    )
    app.conf.update(settings.app_settings)
    return app
