"""What Ray's programs find in ``ray.util``; most parts are imported when they are first used."""

from __future__ import annotations

import importlib

# At once, so that the function hides the module of its name, as in Ray: `from … import` finds that.
from celery_actors.util.placement_group import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

# Where each name is.  Names that are modules are found without an entry.
_PLACES = {
    "ActorGroup": "celery_actors.util.actor_group",
    "ActorPool": "celery_actors.util.actor_pool",
    "as_completed": "celery_actors.util.completion",
    "disable_log_once_globally": "celery_actors.util.debug",
    "enable_periodic_logging": "celery_actors.util.debug",
    "deregister_serializer": "celery_actors.serialization",
    "get_node_ip_address": "celery_actors.util.addresses",
    "inspect_serializability": "celery_actors.util.check_serialize",
    "list_named_actors": "celery_actors.util.named_actors",
    "log_once": "celery_actors.util.debug",
    "map_unordered": "celery_actors.util.completion",
    "register_serializer": "celery_actors.serialization",
}

_MODULES = (
    "actor_group",
    "actor_pool",
    "debug",
    "joblib",
    "metrics",
    "multiprocessing",
    "queue",
    "scheduling_strategies",
    "state",
)

__all__ = [
    "ActorGroup",
    "ActorPool",
    "as_completed",
    "deregister_serializer",
    "disable_log_once_globally",
    "enable_periodic_logging",
    "get_current_placement_group",
    "get_node_ip_address",
    "get_placement_group",
    "inspect_serializability",
    "list_named_actors",
    "log_once",
    "map_unordered",
    "placement_group",
    "placement_group_table",
    "register_serializer",
    "remove_placement_group",
]


def __getattr__(name: str) -> object:
    place = _PLACES.get(name)
    if place is not None:
        return getattr(importlib.import_module(place), name)
    if name in _MODULES:
        return importlib.import_module(f"celery_actors.util.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
