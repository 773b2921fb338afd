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
from celery_actors.generators import ObjectRefGenerator
from celery_actors.handle import ActorHandle
from celery_actors.refs import ObjectRef
from celery_actors.remote import method, remote
from celery_actors.runtime_context import get_runtime_context

if TYPE_CHECKING:
    from celery_actors import state, util
    from celery_actors.state.timeline import timeline

__all__ = [
    "ActorHandle",
    "ObjectRef",
    "ObjectRefGenerator",
    "actor",
    "available_resources",
    "cancel",
    "cluster_resources",
    "exceptions",
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

__version__ = "0.1.0"


if TYPE_CHECKING:
    from celery_actors.celery import install
else:

    def __getattr__(name: str) -> object:
        # What few programs need, or only workers, is imported where it is needed.
        if name in ("state", "util"):
            return importlib.import_module(f"celery_actors.{name}")
        if name == "install":
            from celery_actors.celery import install

            return install
        if name == "timeline":
            from celery_actors.state.timeline import timeline

            return timeline
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
