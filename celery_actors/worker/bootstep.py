"""The bootsteps that make a Celery worker a node of the cluster."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from celery import Celery, bootsteps
from celery.worker import state as worker_state
from click import Option
from kombu import Consumer, Queue

from celery_actors.config import SESSION_DIR_ENVIRONMENT, Settings
from celery_actors.exceptions import ConfigurationError, TamperedError
from celery_actors.protocol.orders import decode_order
from celery_actors.protocol.signing import Signer
from celery_actors.worker.agent import NodeAgent
from celery_actors.worker.resources import ResourceOptions, detect

__all__ = ["NodeStep", "OrdersStep", "add_worker_options"]

logger = logging.getLogger(__name__)


def add_worker_options(app: Celery) -> None:
    """Add this package's options to ``celery worker``."""
    options = (
        Option(["--node-name"], help="Name of this node (default: the host's, made unique)."),
        Option(["--num-cpus"], type=float, help="CPUs of this node (default: what it has)."),
        Option(["--num-gpus"], type=float, help="GPUs of this node (default: what NVML finds)."),
        Option(["--resources"], help="Custom resources as JSON, e.g. '{\"disk\": 2}'."),
        Option(["--labels"], help='Labels of this node as JSON, e.g. \'{"zone": "a"}\'.'),
    )
    app.user_options["worker"].update(options)


def _json_mapping(text: str | None, option: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"{option} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigurationError(f"{option} must be a JSON object, not {text}")
    return value


class NodeStep(bootsteps.StartStopStep):  # type: ignore[misc]  # untyped base
    """Runs the node agent beside the worker."""

    requires = ("celery.worker.components:Pool",)

    def __init__(
        self,
        worker: Any,
        node_name: str | None = None,
        num_cpus: float | None = None,
        num_gpus: float | None = None,
        resources: str | None = None,
        labels: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(worker, **kwargs)
        custom = _json_mapping(resources, "--resources")
        memory = custom.pop("memory", None)
        session = os.environ.get(SESSION_DIR_ENVIRONMENT)
        log_dir = Path(session) / "logs" if session else None
        if log_dir is not None:
            log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = detect(
            ResourceOptions(num_cpus=num_cpus, num_gpus=num_gpus, memory=memory, resources=custom)
        )
        worker.node_agent = NodeAgent(
            Settings.from_app(worker.app),
            found,
            name=node_name,
            labels={str(k): str(v) for k, v in _json_mapping(labels, "--labels").items()},
            send_events=bool(getattr(worker, "task_events", False)),
            log_dir=log_dir,
            on_lease_lost=_shut_down,
        )

    def start(self, worker: Any) -> None:
        """Start the agent; return once the broker is there, so that Celery finds it at once."""
        worker.node_agent.start()
        worker.node_agent.wait_for_brokers(
            lambda: (
                worker_state.should_stop is not None or worker_state.should_terminate is not None
            )
        )

    def stop(self, worker: Any) -> None:
        """Leave the cluster."""
        worker.node_agent.stop()

    def terminate(self, worker: Any) -> None:
        """Leave the cluster."""
        worker.node_agent.stop()

    def info(self, worker: Any) -> dict[str, Any]:
        """What ``celery inspect stats`` shows of the node."""
        agent: NodeAgent = worker.node_agent
        return {"actors_node": {"name": agent.name, "id": agent.node_id}}


def _shut_down() -> None:
    worker_state.should_stop = 1


class OrdersStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Consumes the node's queue: orders to start and kill actors."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        self._consumer: Consumer | None = None
        self._signer: Signer | None = None

    def start(self, c: Any) -> None:
        """Consume, on a channel of its own of the worker's connection."""
        agent: NodeAgent = c.controller.node_agent
        self._signer = Signer(agent.settings.key)
        channel = c.connection.channel()
        queue = Queue(agent.queue, routing_key=agent.queue, durable=True)(channel)
        queue.queue_declare()
        if agent.leaving:
            # The node lost its lease while the connection was away, and its queue with it:
            # what was declared just now would be left behind.
            queue.delete()
            return
        self._consumer = Consumer(
            channel,
            queues=[Queue(agent.queue, no_declare=True)],
            on_message=lambda message: self._on_message(agent, message),
            auto_declare=False,
        )
        self._consumer.consume()

    def stop(self, c: Any) -> None:
        """Stop consuming."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            try:
                consumer.cancel()
                consumer.channel.close()
            except c.connection_errors + c.channel_errors as error:
                logger.debug("the node's queue was lost: %s", error)

    shutdown = stop

    def _on_message(self, agent: NodeAgent, message: Any) -> None:
        assert self._signer is not None
        try:
            order = decode_order(self._signer, agent.queue, bytes(message.body))
        except (TamperedError, ValueError, KeyError, TypeError) as error:
            logger.error("rejected a message in the queue of node %s: %s", agent.name, error)
            message.reject()
            return
        # Acknowledged before it is done: what is lost is told again with the lease.
        agent.order(order)
        message.ack()
