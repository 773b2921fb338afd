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

from celery_actors import exceptions, util
from celery_actors.api import (
    available_resources,
    cancel,
    cluster_resources,
    get,
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

__all__ = [
    "ActorHandle",
    "ObjectRef",
    "ObjectRefGenerator",
    "available_resources",
    "cancel",
    "cluster_resources",
    "exceptions",
    "get",
    "get_gpu_ids",
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
    "util",
    "wait",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # The Celery app and its worker modules are imported only where they are needed.
    if name == "install":
        from celery_actors.celery import install

        return install
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
