"""The Celery app, so that ``celery -A celery_actors worker`` makes a machine a node.

A team that has an app of its own calls :func:`install` on it instead.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TypeVar

from celery import Celery

from celery_actors.store.backend import backend_of
from celery_actors.worker.bootstep import NodeStep, OrdersStep, add_worker_options

__all__ = ["app", "install", "make_app"]

AppT = TypeVar("AppT", bound=Celery)


def install(app: AppT) -> AppT:
    """Make workers of ``app`` nodes, and let its ``AsyncResult`` read actors' results.

    The app's settings stay as they are; ``actors_*`` keys beside them configure this
    package (see :class:`celery_actors.config.Settings`).

    Example::

        app = Celery("shop", broker="amqp://…", backend="redis://…")
        celery_actors.install(app)
    """
    app.steps["worker"].add(NodeStep)
    app.steps["consumer"].add(OrdersStep)
    add_worker_options(app)
    # Not by loader.override_backends: the app may have put a class of its own there, or name one
    # in its result_backend.
    app._get_backend = partial(backend_of, app)
    if app._backend is not None:  # this thread has used it already
        app._backend = backend_of(app)
    return app


def make_app() -> Celery:
    """Return an app configured from the environment alone."""
    app = Celery("celery_actors", set_as_current=False)
    app.conf.update(
        broker_url=os.environ.get("CELERY_BROKER_URL"),
        result_backend=os.environ.get("CELERY_RESULT_BACKEND"),
        accept_content=["json"],
        task_default_queue="celery_actors",
        worker_pool="solo",
        worker_concurrency=1,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        # A broker with an alarm does not answer who publishes, not even a connection's end.
        broker_transport_options={"read_timeout": 10, "write_timeout": 10},
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_prefetch_count_reduction=False,
        worker_detect_quorum_queues=False,
        worker_hijack_root_logger=False,
    )
    return install(app)


app = make_app()
