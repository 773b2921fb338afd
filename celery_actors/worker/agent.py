"""The node agent: the node's local scheduler, a thread of the node worker.

It registers the node, starts the actor processes that are placed here, reaps them and says
so in the records, and does its share of the janitor's work: any node may clean up after a
lost node or driver.  A thread of its own renews the lease (celery_actors.client.lease).

What fails because a broker cannot be reached is repeated in the next round.  An order that was
lost is found in the records.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import redis

from celery_actors.client.broker import LOST, explain_amqp
from celery_actors.client.lease import LeaseKeeper
from celery_actors.config import Settings
from celery_actors.control import Control, NodeNameTaken, NodeSpec, Placement, StartOrder
from celery_actors.exceptions import ConfigurationError
from celery_actors.ids import actor_hostname, checked_id, new_caller_id, node_queue_name
from celery_actors.protocol.orders import Order, OrderKind
from celery_actors.store.connection import explain_redis
from celery_actors.store.express import express_path
from celery_actors.store.outage import is_outage
from celery_actors.store.rights import check_redis
from celery_actors.store.segments import make_store, send_segment
from celery_actors.store.shm import Segment, SharedMemoryStore
from celery_actors.store.whereabouts import BOOT, get_node_ip_address, store_capacity, whereabouts
from celery_actors.worker.children import Child, Children
from celery_actors.worker.environment_cache import EnvironmentCache
from celery_actors.worker.environments import report_failure, unstarted
from celery_actors.worker.janitor import Janitor
from celery_actors.worker.labels import node_labels
from celery_actors.worker.last_words import forget_last_words, last_words
from celery_actors.worker.launch import Launch
from celery_actors.worker.orphans import Orphans
from celery_actors.worker.postman import Postman
from celery_actors.worker.recorder import forget_recorder, interrupted_calls
from celery_actors.worker.resources import NodeResources, visible_devices

__all__ = ["NodeAgent", "units"]

logger = logging.getLogger(__name__)

_LOOKS = 3  # in the time of one lease: for lost orders, and for what dead nodes and drivers left
_PAUSE = 0.3  # before a repetition, in seconds


def units(amount: float) -> int:
    """Return an amount of a resource in units of 1/10000."""
    return round(amount * 10_000)


class NodeAgent:
    """One node.  All methods but :meth:`start`, :meth:`stop` and :meth:`order` belong to
    the agent's own thread; orders reach it through a deque (appending to it is atomic)."""

    def __init__(
        self,
        settings: Settings,
        resources: NodeResources,
        *,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        send_events: bool = False,
        log_dir: Path | None = None,
        on_lease_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings = settings
        self._actors_settings = settings.for_actors()
        self.node_id = os.urandom(16).hex()
        self.host = socket.gethostname()
        self._address = get_node_ip_address()
        self.name = name or f"{self.host}-{self.node_id[:6]}"
        self.queue = node_queue_name(self.node_id)
        self._resources = resources
        given = node_labels(self.node_id, resources.gpus, labels or {})
        self._labels = {**given, **whereabouts(settings)}
        self._send_events = send_events
        self._log_dir = log_dir
        self._on_lease_lost = on_lease_lost
        self.postman = Postman(settings)
        self._redis = self.postman.redis
        self._control = Control(self._redis, settings.prefix)
        self._store: SharedMemoryStore = make_store(settings, self.node_id, f"node.{self.node_id}")
        self._janitor = Janitor(self._control, self.postman, settings, self.node_id, self._kill)
        environment = {k: v for k, v in os.environ.items() if k != "CELERY_ACTORS_KEY"}
        environment["CUDA_VISIBLE_DEVICES"] = ""
        self._children = Children(environment)
        self._orphans = Orphans()
        self._environments = EnvironmentCache(self.node_id)
        self._todo: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopping = False
        self._lost = False  # whether the lease was lost; set by its thread
        self._lease = LeaseKeeper(
            settings,
            lambda control: control.renew_node(self.node_id, settings.lease),
            self._lease_lost,
        )
        self._thread = threading.Thread(target=self._run, name="celery-actors-node", daemon=True)
        self._registered = threading.Event()

    # -- from other threads ------------------------------------------------------------

    def start(self) -> None:
        """Start the agent's thread: it warms the fork server and waits for the brokers."""
        self._thread.start()

    @property
    def leaving(self) -> bool:
        """Whether the node has left the cluster, or is about to."""
        return self._stopping

    def wait_for_brokers(self, interrupted: Callable[[], bool]) -> None:
        """Return when RabbitMQ accepts connections, or when interrupted."""
        self.postman.wait_for_broker(interrupted)

    def order(self, order: Order) -> None:
        """Take an order from the node's queue."""
        if order.kind is OrderKind.START:
            self._start_later(order.subject, order.incarnation)
        elif order.kind is OrderKind.KILL:
            self._later(self._kill, order.incarnation)
        elif order.kind is OrderKind.FETCH:
            segment = Segment.from_bytes(bytes.fromhex(order.subject))
            threading.Thread(
                target=send_segment,
                args=(self._redis, self._store, segment, order.reply_to),
                daemon=True,
            ).start()
        elif order.kind is OrderKind.FREE:
            self._store.release(Segment.from_bytes(bytes.fromhex(order.subject)))

    def stop(self, timeout: float = 15.0) -> None:
        """Leave the cluster: kill the actors, say so, and end the thread."""
        self._stopping = True
        os.eventfd_write(self._wakeup, 1)
        self._thread.join(timeout)

    # -- the agent's thread --------------------------------------------------------------

    def _later(self, action: Callable[..., None], *arguments: Any) -> None:
        self._todo.append((action, arguments))
        os.eventfd_write(self._wakeup, 1)

    def _start_later(self, actor_id: str, incarnation: str) -> None:
        """Have an actor's process started.

        The id under which that process will make calls is chosen here, once: by it Redis tells
        another attempt, after an outage half way, from a repeated order.
        """
        self._later(self._start_actor, actor_id, incarnation, new_caller_id().hex())

    def _run(self) -> None:
        self._open_environments()
        self._children.start_server()
        joined = False
        due = 0.0
        try:
            while not self._stopping:
                if self._lost:
                    self._give_up()
                    break
                try:
                    if not joined:
                        joined = self._join()
                    if joined and monotonic() >= due:
                        self._look()
                        due = monotonic() + self.settings.lease / _LOOKS
                    self._work()
                    self.postman.catch_up()
                except ConfigurationError as error:
                    logger.error("node %s can't join: %s", self.name, error)
                    self._stopping = True
                    self._on_lease_lost()
                    break
                except Exception as error:
                    if _is_away(error):
                        why = self._explain(error)
                        logger.warning("the node waits for its brokers: %s", why)
                        self._pause(_PAUSE)
                        continue
                    logger.exception("node %s met an error of ours; it goes on", self.name)
                    due = monotonic() + self.settings.lease / _LOOKS
                wait = due - monotonic() if joined else 0.1
                self._pause(min(wait, _PAUSE) if self.postman.is_behind else wait)
        finally:
            self._leave(joined)
            if not self._stopping:  # an error of ours: the logger has it
                self._on_lease_lost()

    def _explain(self, error: Exception) -> Exception:
        if isinstance(error, redis.RedisError):
            return explain_redis(self.settings, error)
        return explain_amqp(self.postman.broker, error)

    def _open_environments(self) -> None:
        try:
            self._environments.open()
        except OSError as error:  # only what has a working directory or modules suffers
            logger.error("node %s can't unpack what a runtime_env sends: %s", self.name, error)

    def _pause(self, timeout: float) -> None:
        answers, woken = self._children.wait_readable(timeout, self._wakeup)
        if woken:
            os.eventfd_read(self._wakeup)
        if answers:
            for child, cause in self._children.events():
                self._todo.append((self._ended, (child, cause)))

    def _work(self) -> None:
        while self._todo:
            action, arguments = self._todo[0]
            try:
                action(*arguments)
            except Exception as error:
                if _is_away(error):  # done again later
                    raise
                # One order that can't be carried out must not end the node.
                logger.exception("node %s could not do %s%r", self.name, action.__name__, arguments)
            self._todo.popleft()

    def _join(self) -> bool:
        if not self.postman.reachable():
            return False
        check_redis(self._redis, self.settings, serves=True)
        self.postman.declare(self.queue)
        found = self._resources
        resources = {
            "CPU": units(found.cpus),
            "memory": units(found.memory),
            "object_store_memory": units(store_capacity(self.settings)),
            f"node:{self._address}": units(1),  # Ray's programs choose a node by it
        }
        if found.gpus:
            resources["GPU"] = units(len(found.gpus))
        resources.update((name, units(amount)) for name, amount in found.custom.items())
        spec = NodeSpec(
            node_id=self.node_id,
            name=self.name,
            host=self.host,
            pid=os.getpid(),
            resources=resources,
            gpus=tuple(gpu.index for gpu in found.gpus),
            labels=self._labels,
            cores=found.cores,
            address=self._address,
        )
        try:
            placements = self._control.register_node(spec, self.settings.lease)
        except NodeNameTaken as error:
            logger.warning("%s; waiting until it is free", error)
            self._bury_predecessor()
            return False
        self.postman.starts(placements)
        self._registered.set()
        self._lease.start()
        return True

    def _bury_predecessor(self) -> None:
        """A node of our name that ran here and whose process is gone need not expire."""
        for node in self._control.nodes():
            if (
                node.name == self.name
                and node.host == self.host
                and node.labels.get(BOOT) == self._labels[BOOT]
                and not Path(f"/proc/{node.pid}").exists()
            ):
                self._janitor.node_is_gone(node.node_id, f"node worker {node.name} died")

    def _lease_lost(self) -> None:
        """The lease is over.  Called in the lease's thread."""
        self._lease.close()
        self._lost = True
        os.eventfd_write(self._wakeup, 1)

    def _give_up(self) -> None:
        logger.error(
            "node %s lost its lease of %g s (stopped, or cut off from Redis?): its actors are "
            "dead to the cluster and are killed; the node worker exits",
            self.name,
            self.settings.lease,
        )
        self._children.stop()
        self._stopping = True
        self._on_lease_lost()

    def _look(self) -> None:
        """Carry out lost orders, and clean up after dead nodes and drivers."""
        missed = self._control.missed(self.node_id)
        for placement in missed.unstarted:
            self._start_later(placement.actor_id, placement.incarnation)
        for placement in missed.stale:
            if not self._children.kill(placement.incarnation):
                self._gone(placement, "its process is not there")
        for actor_id in missed.stopping:
            self.postman.stop_actor(actor_id)
        self._janitor.work()
        for incarnation in self._environments.overdue():
            self._kill(incarnation)
        self._environments.sweep(lambda: {job.job_id for job in self._control.jobs()})
        self._store.collect()
        self._orphans.reap()
        self.postman.heartbeat()

    def _start_actor(self, actor_id: str, incarnation: str, caller_id: str) -> None:
        order = self._control.begin(actor_id, incarnation, self.node_id, caller_id)
        if order is None:  # stale, or begun already
            return
        record = order.actor
        try:
            self._control.register_caller(
                caller_id, record.job_id, lease=None, node_id=self.node_id, driver=False
            )
            self._children.spawn(self._launch_of(order, incarnation, caller_id))
        except Exception as error:
            if _is_away(error):  # done again later
                raise
            logger.exception("node %s could not start actor %s", self.name, actor_id)
            placed = Placement(actor_id, incarnation, self.node_id, record.kind, record.caller_id)
            self._gone(placed, f"its process could not be started: {error}")
            self._janitor.caller_ended(caller_id)

    def _launch_of(self, order: StartOrder, incarnation: str, caller_id: str) -> Launch:
        record = order.actor
        hostname = actor_hostname(record.class_name, record.actor_id, self.host)
        return Launch(
            actor_id=record.actor_id,
            incarnation=incarnation,
            kind=record.kind,
            class_name=record.class_name,
            job_id=record.job_id,
            caller_id=caller_id,
            creator_id=record.caller_id,
            node_id=self.node_id,
            hostname=hostname,
            gpu_ids=order.gpu_ids,
            resources=record.resources,
            settings=self._actors_settings,
            send_events=self._send_events,
            blob=order.blob,
            environment={
                "CUDA_VISIBLE_DEVICES": visible_devices(self._resources.gpus, order.gpu_ids)
            },
            log_file=self._log_file(checked_id(record.job_id), hostname),
            actor_name=record.name,
            namespace=order.namespace,
            restarts=record.restarts,
            # Nobody reads the record of a process that is not restarted.
            records_calls=record.max_restarts < 0 or record.restarts < record.max_restarts,
            attempts=order.attempts,
            interrupted_unknown=order.unknown,
        )

    def _log_file(self, job_id: str, hostname: str) -> str:
        """Return where a process of that job writes what it prints; empty: where we do."""
        if self._log_dir is None:
            return ""
        directory = self._log_dir / job_id
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return str(directory / f"{hostname}.log")

    def _kill(self, incarnation: str) -> None:
        self._children.kill(incarnation)

    def _ended(self, child: Child, cause: str) -> None:
        """A process was reaped: only now its resources are free."""
        launch = child.launch
        words = last_words(launch)
        if words is not None:
            cause = words.why
            if words.over:  # it may have been unable to tell the records itself
                self._control.failed(launch.actor_id, launch.incarnation, cause, None)
        start = self._environments.start_of(launch.incarnation)
        if start is not None:
            report_failure(self._control, launch, unstarted(cause, start))
        self._gone(
            Placement(
                launch.actor_id, launch.incarnation, self.node_id, launch.kind, launch.creator_id
            ),
            cause,
            interrupted_calls(launch) if launch.records_calls else (),
        )
        self._janitor.caller_ended(launch.caller_id)
        # Last: what an outage cuts short is repeated from the beginning, and reads them again.
        if start is not None:
            start.path.unlink(missing_ok=True)
        _remove_files(launch)

    def _gone(self, placement: Placement, cause: str, interrupted: Sequence[str] = ()) -> None:
        reaped = self._control.reaped(
            placement.actor_id, placement.incarnation, self.node_id, cause, interrupted
        )
        self.postman.starts(reaped.placements)
        if reaped.over:
            self._janitor.actor_is_gone(placement.actor_id)

    def _leave(self, joined: bool) -> None:
        self._lease.close()
        self._children.stop()
        self._environments.close()
        try:
            if joined:
                self._janitor.node_is_gone(self.node_id, f"its node {self.name} was shut down")
                self._janitor.work()  # a last time: it may be the last node
            else:  # the worker may have declared it, and no janitor knows of this node
                self.postman.delete(self.queue)
        except Exception as error:
            if not _is_away(error):
                raise
            logger.warning("node %s left without saying so: %s", self.name, error)
        self._store.close()
        self.postman.close()


def _remove_files(launch: Launch) -> None:
    """Remove the files of a process that has ended; its log only if it is empty."""
    forget_recorder(launch)
    forget_last_words(launch)
    socket = express_path(
        Path(launch.settings.shared_memory_dir), bytes.fromhex(launch.incarnation)
    )
    socket.unlink(missing_ok=True)  # unless it did so itself
    if launch.log_file:
        log = Path(launch.log_file)
        if log.exists() and not log.stat().st_size:
            log.unlink()


def _is_away(error: Exception) -> bool:
    """Whether a broker is away, or answers that it can't now: what failed is done again."""
    if isinstance(error, OSError) and error.filename is not None:
        return False  # it is of a file
    return is_outage(error) or isinstance(error, LOST)
