"""The runtime context: where the code that asks runs, in what, and with what.

Follows Ray's ``get_runtime_context()``.  All ids are lower-case hex.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from celery_actors.client.current import require_process
from celery_actors.control import amounts
from celery_actors.ids import ActorID, JobID, NodeID, TaskID
from celery_actors.runtime_env import RuntimeEnv
from celery_actors.worker.context import current_assignment

if TYPE_CHECKING:
    from celery_actors.client.process import Process
    from celery_actors.handle import ActorHandle
    from celery_actors.worker.runner import Run

__all__ = ["RuntimeContext", "get_runtime_context"]


class RuntimeContext:
    """What runs here.  Got by :func:`get_runtime_context`; reads the present state.

    Example::

        @ray.remote
        class Worker:
            def where(self):
                context = ray.get_runtime_context()
                return context.get_node_id(), context.get_actor_id()
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._assignment = current_assignment()

    def get_job_id(self) -> str:
        """Return the id of the job: of the driver behind all this."""
        return self._process.job_id

    def get_node_id(self) -> str | None:
        """Return the id of the node on which this runs; of a driver the one on its machine."""
        return self._process.node_id or self._process.beside

    def get_worker_id(self) -> str:
        """Return the id of this process, under which it calls others."""
        return self._process.caller.hex()

    def get_actor_id(self) -> str | None:
        """Return the id of the actor that this process is; ``None``: it is none."""
        return self._assignment.actor_id

    def get_actor_name(self) -> str | None:
        """Return the actor's name, empty if it has none; ``None``: this is no actor."""
        return None if self._assignment.actor_id is None else self._assignment.actor_name

    @property
    def job_id(self) -> JobID:
        """The id of the job, as an object (Ray's former way)."""
        return JobID.from_hex(self.get_job_id())

    @property
    def node_id(self) -> NodeID:
        """The id of the node, as an object; that of nothing where there is none."""
        found = self.get_node_id()
        return NodeID.nil() if found is None else NodeID.from_hex(found)

    @property
    def actor_id(self) -> ActorID | None:
        """The id of the actor that this process is, as an object; ``None``: it is none."""
        found = self.get_actor_id()
        return None if found is None else ActorID.from_hex(found)

    @property
    def task_id(self) -> TaskID | None:
        """The id of the call that runs here, as an object; ``None``: none does."""
        found = self.get_task_id()
        return None if found is None else TaskID.from_hex(found)

    def get_task_id(self) -> str | None:
        """Return the id of the call that runs here; ``None``: none does.

        With dashes, as a UUID, it is Celery's task id (``ObjectRef.task_id()``).
        """
        run = self._run()
        return None if run is None else run.task_id

    def get_task_name(self) -> str | None:
        """Return the name of the call that runs here: the ``name`` option, else the function's."""
        run = self._run()
        return None if run is None else run.options.name or run.function

    def get_task_function_name(self) -> str | None:
        """Return the name of the function or method that runs here: ``"Counter.increment"``."""
        run = self._run()
        return None if run is None else run.function

    def get_placement_group_id(self) -> str | None:
        """Return the id of the placement group in which this runs; ``None``: in none."""
        return self._assignment.group or None

    @property
    def current_placement_group_id(self) -> str | None:
        """The same, under Ray's older name."""
        return self.get_placement_group_id()

    @property
    def namespace(self) -> str:
        """The namespace in which names of actors are looked up here."""
        return self._process.namespace

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether the actor that this process is was restarted after a loss."""
        return self._assignment.restarts > 0

    @property
    def current_actor(self) -> ActorHandle[Any]:
        """A handle to the actor that this process is.  It is weak: it keeps nobody alive.

        :raises RuntimeError: this is no actor.
        """
        from celery_actors.handle import weak_handle

        actor_id = self._assignment.actor_id
        if actor_id is None:
            raise RuntimeError("current_actor is there in an actor only: this process is none")
        described = self._process.control.actor_handle(actor_id)
        if described is None:
            raise RuntimeError(f"actor {actor_id} is dead: this process is about to end")
        self._process.on_shared()  # it may call itself, beside its creator
        return weak_handle(self._process, bytes.fromhex(actor_id), described)

    def get_assigned_resources(self) -> dict[str, float]:
        """Return what was assigned to this actor or task, by name; a driver has nothing."""
        return amounts(self._assignment.resources)

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """Return the ids of the accelerators assigned here: ``{"GPU": ["2", "5"]}``."""
        return {"GPU": [str(gpu) for gpu in self._assignment.gpu_ids]}

    @property
    def runtime_env(self) -> RuntimeEnv:
        """The ``runtime_env`` of this process: its own with what it inherited."""
        return RuntimeEnv(**dict(self._assignment.runtime_env))

    def get_runtime_env_string(self) -> str:
        """Return the ``runtime_env`` of this process as JSON."""
        return json.dumps(dict(self._assignment.runtime_env), sort_keys=True)

    def is_canceled(self) -> bool:
        """Return whether the call that runs here was cancelled: it should come to an end."""
        run = self._run()
        return run is not None and run.cancelled

    def get(self) -> dict[str, Any]:
        """Return the ids that there are, by name."""
        found = {
            "job_id": self.get_job_id(),
            "node_id": self.get_node_id(),
            "worker_id": self.get_worker_id(),
            "namespace": self.namespace,
            "actor_id": self.get_actor_id(),
            "task_id": self.get_task_id(),
        }
        return {name: value for name, value in found.items() if value is not None}

    def _run(self) -> Run | None:
        if self._assignment.node_id is None:  # a driver runs no calls
            return None
        from celery_actors.worker.runner import current_run

        return current_run.get()

    def __repr__(self) -> str:
        return f"RuntimeContext({', '.join(f'{k}={v}' for k, v in self.get().items())})"


def get_runtime_context() -> RuntimeContext:
    """Return the context of the code that asks: its job, node, process, actor and call.

    Calling it before ``init()`` initialises with defaults.
    """
    return RuntimeContext(require_process())
