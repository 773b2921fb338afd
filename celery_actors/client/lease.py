"""The lease of a driver or a node worker, renewed where nothing else can hold it up."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from celery_actors.config import Settings
from celery_actors.control import Control
from celery_actors.store.connection import open_redis
from celery_actors.store.outage import is_outage

__all__ = ["LeaseKeeper"]

logger = logging.getLogger(__name__)

_RENEWALS = 3  # in the time of one lease
_ATTEMPTS = 20  # in the time of one lease, while Redis is away


class LeaseKeeper:
    """Renews one lease in a thread of its own, over a connection to Redis of its own.

    The thread does nothing else, uses nothing of RabbitMQ, takes no lock, and each command has a
    time limit.  So no other broker, no socket that blocks and no long work of this process ends
    the lease: only Redis itself, or a process that is stopped.

    :param renew: renews; returns False where the lease was lost.
    :param on_lost: called then, in the thread; renewals go on.
    """

    def __init__(
        self,
        settings: Settings,
        renew: Callable[[Control], bool],
        on_lost: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._renew = renew
        self._on_lost = on_lost
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="celery-actors-lease", daemon=True)

    def start(self) -> None:
        """Start to renew; the lease was given just now."""
        self._thread.start()

    def close(self) -> None:
        """Stop to renew.  A renewal that is under way may still be written."""
        self._closing.set()

    def _run(self) -> None:
        lease = self._settings.lease
        client = open_redis(self._settings, patience=0, timeout=lease / _RENEWALS / 2)
        control = Control(client, self._settings.prefix)
        pause = lease / _RENEWALS
        while not self._closing.wait(pause):
            pause = lease / _RENEWALS
            try:
                if not self._renew(control):
                    self._on_lost()
            except Exception as error:
                if not is_outage(error):
                    logger.exception("the lease could not be renewed; it is tried again")
                pause = lease / _ATTEMPTS
        client.close()
