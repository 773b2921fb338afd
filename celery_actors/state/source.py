"""Where states come from: the records in Redis, and the processes themselves.

Whoever looks need not take part: without a session the records are read under the
environment's addresses, no job is registered and no cluster started.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import monotonic, time
from typing import Any

from kombu import Producer, pidbox

from celery_actors.app_settings import SAFE_SERIALIZERS
from celery_actors.client.broker import Broker
from celery_actors.client.current import current_process
from celery_actors.client.pending import pending_calls
from celery_actors.client.process import Process
from celery_actors.config import Settings
from celery_actors.control import ActorRecord, Control
from celery_actors.exceptions import ActorsError
from celery_actors.ids import actor_hostname, control_queue_name
from celery_actors.protocol.reports import (
    CallReport,
    ProcessReport,
    decode_report,
)
from celery_actors.session import settings_of_cluster
from celery_actors.store.connection import open_redis

__all__ = ["Source", "open_source"]

logger = logging.getLogger(__name__)

_ROUND = 1.0  # seconds after which those that have not answered are asked again
_HAS_PROCESS = ("STARTING", "ALIVE", "STOPPING")


class _Control(pidbox.Mailbox):  # type: ignore[misc]  # untyped base
    """Remote control of actors, each on its own queue.

    An exchange would reach only those whose nodes have the same ``control_exchange``.
    """

    accept = SAFE_SERIALIZERS

    def _publish(
        self,
        type: str,  # noqa: A002 - kombu's name
        arguments: dict[str, Any],
        destination: Iterable[str] = (),
        reply_ticket: str | None = None,
        channel: Any = None,
        timeout: float | None = None,
        **_options: Any,
    ) -> None:
        self.reply_queue(channel).declare()
        message = {"method": type, "arguments": arguments, "ticket": reply_ticket}
        message["reply_to"] = {"exchange": self.reply_exchange.name, "routing_key": self.oid}
        headers = {"clock": self.clock.forward(), "expires": time() + timeout if timeout else 0}
        producer = Producer(channel, auto_declare=False)
        for name in destination:
            producer.publish(
                {**message, "destination": [name]},
                exchange="",
                routing_key=control_queue_name(name),
                serializer="json",
                headers=headers,
            )


class Source:
    """One look at the cluster.

    :param process: this process's client, if it takes part.
    """

    def __init__(self, settings: Settings, control: Control, process: Process | None) -> None:
        self._settings = settings
        self.control = control
        self._process = process

    def reports(
        self, actors: Iterable[ActorRecord], most: int, timeout: float, all_needed: bool
    ) -> list[ProcessReport]:
        """Ask the processes of actors and executors, and this one, for their calls.

        :param most: how many calls of each.
        :param timeout: seconds to wait at most.
        :param all_needed: raise if one did not answer; else there is a warning.
        :raises ActorsError: one did not answer in time.
        """
        hosts = {node.node_id: node.host for node in self.control.nodes()}
        asked: dict[str, ActorRecord] = {}
        for actor in actors:
            host = hosts.get(actor.node_id or "")
            if actor.state in _HAS_PROCESS and host is not None:
                asked[actor_hostname(actor.class_name, actor.actor_id, host)] = actor
        found = self._ask(asked, most, timeout)
        missing = sorted(name for name in asked if name not in found and _must_answer(asked[name]))
        if missing:
            message = (
                f"{len(missing)} of {len(asked)} processes did not answer within {timeout:g} s "
                f"({', '.join(missing[:3])}…): a method that keeps the GIL lets no other thread "
                "run; raise_on_missing_output=False returns what the others say"
            )
            if all_needed:
                raise ActorsError(message)
            logger.warning("%s", message)
        reports = list(found.values())
        own = self._own(most)
        if own is not None:
            reports.append(own)
        return reports

    def ended(self, job_ids: Iterable[str]) -> list[ProcessReport]:
        """Return what processes of the jobs, which have ended, left of their calls."""
        reports = []
        for job_id in job_ids:
            for row in self.control.kept_calls(job_id):
                about, call = json.loads(row)
                report = ProcessReport(*about)
                reports.append(report._replace(calls=(CallReport(*call),), pending=()))
        return reports

    def _own(self, most: int) -> ProcessReport | None:
        """Return the calls that this process, a driver, waits for; an actor answers itself."""
        process = self._process
        if process is None or not process.driver:
            return None
        return ProcessReport(
            worker_id=process.caller.hex(),
            job_id=process.job_id,
            node_id=None,
            pid=process.pid,
            kind="driver",
            actor_id=None,
            class_name="",
            pending=pending_calls(process, most),
        )

    def _ask(
        self, asked: dict[str, ActorRecord], most: int, timeout: float
    ) -> dict[str, ProcessReport]:
        """Ask again and again, until all have answered that are still there, or time is over."""
        found: dict[str, ProcessReport] = {}
        if not asked:
            return found
        deadline = monotonic() + timeout
        with Broker.of(self._settings).connection(heartbeat=0) as connection:
            control = _Control("celery")(connection)
            left = dict(asked)
            while left:
                wait = min(_ROUND, deadline - monotonic())
                if wait <= 0:
                    break
                answers = control.call(list(left), "actors_calls", {"most": most}, timeout=wait)
                for answer in answers:
                    for name, fields in answer.items():
                        if name in left and "worker_id" in fields:
                            found[name] = decode_report(fields)
                            del left[name]
                left = self._still_there(left)
                if not any(map(_must_answer, left.values())):
                    break
        for name in set(asked) - set(found) - set(left):
            del asked[name]
        return found

    def _still_there(self, left: dict[str, ActorRecord]) -> dict[str, ActorRecord]:
        still = {}
        for name, actor in left.items():
            record = self.control.actor(actor.actor_id)
            if record is not None and record.incarnation == actor.incarnation:
                still[name] = record
        return still


def _must_answer(actor: ActorRecord) -> bool:
    # One whose constructor runs may not have opened its connection yet.
    return actor.state != "STARTING"


@contextmanager
def open_source(address: str | None = None) -> Iterator[Source]:
    """Open the cluster of this process's session, or the one that is found.

    :param address: a broker's URL, ``"auto"``, or ``None``: the session's, if there is one.
    :raises ConnectionFailed: there is no session and no cluster was found.
    """
    process = current_process()
    if address is None and process is not None:
        yield Source(process.settings, process.control, process)
        return
    settings = settings_of_cluster(address)
    redis = open_redis(settings)
    try:
        yield Source(settings, Control(redis, settings.prefix), None)
    finally:
        redis.close()
