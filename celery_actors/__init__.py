"""Stateful actors on Celery and RabbitMQ, with the API of Ray's actors.

Example::

    import celery_actors as ray

    @ray.remote
    class Counter:
        def __init__(self):
            self.value = 0

        def increment(self):
            self.value += 1
            return self.value

    counter = Counter.remote()
    print(ray.get([counter.increment.remote() for _ in range(3)]))   # [1, 2, 3]
"""

import importlib
from typing import TYPE_CHECKING

from celery_actors import actor, exceptions
from celery_actors._version import __version__
from celery_actors.api import (
    available_resources,
    cancel,
    cluster_resources,
    get,
    get_actor,
    get_gpu_ids,
    init,
    is_initialized,
    kill,
    mailbox_of,
    nodes,
    put,
    shutdown,
    wait,
)
from celery_actors.generators import DynamicObjectRefGenerator, ObjectRefGenerator
from celery_actors.handle import ActorHandle
from celery_actors.ids import (
    ActorID,
    JobID,
    NodeID,
    PlacementGroupID,
    TaskID,
    UniqueID,
    WorkerID,
)
from celery_actors.logging_config import LoggingConfig
from celery_actors.refs import ObjectRef
from celery_actors.remote import method, remote
from celery_actors.runtime_context import get_runtime_context

#: Its former name in Ray.
ObjectID = ObjectRef

if TYPE_CHECKING:
    from celery_actors import cloudpickle, experimental, state, util
    from celery_actors.state.timeline import timeline

__all__ = [
    "ActorHandle",
    "ActorID",
    "DynamicObjectRefGenerator",
    "JobID",
    "LoggingConfig",
    "NodeID",
    "ObjectID",
    "ObjectRef",
    "ObjectRefGenerator",
    "PlacementGroupID",
    "TaskID",
    "UniqueID",
    "WorkerID",
    "__version__",
    "actor",
    "available_resources",
    "cancel",
    "cloudpickle",
    "cluster_resources",
    "exceptions",
    "experimental",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "install",
    "is_initialized",
    "kill",
    "mailbox_of",
    "method",
    "nodes",
    "put",
    "remote",
    "shutdown",
    "state",
    "timeline",
    "util",
    "wait",
]

if TYPE_CHECKING:
    from celery_actors.celery import install
else:

    def __getattr__(name: str) -> object:
        # What few programs need, or only workers, is imported where it is needed.
        if name in ("cloudpickle", "experimental", "state", "util"):
            return importlib.import_module(f"celery_actors.{name}")
        if name == "install":
            from celery_actors.celery import install

            return install
        if name == "timeline":
            from celery_actors.state.timeline import timeline

            return timeline
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
