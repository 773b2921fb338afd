"""What Ray's programs find in ``ray.util``; each part is imported when it is first used."""

from __future__ import annotations

import importlib

# Where each name is.  Names that are modules are found without an entry.
_PLACES = {
    "ActorPool": "celery_actors.util.actor_pool",
    "as_completed": "celery_actors.util.completion",
    "get_node_ip_address": "celery_actors.util.addresses",
    "inspect_serializability": "celery_actors.util.check_serialize",
    "map_unordered": "celery_actors.util.completion",
}

__all__ = [
    "ActorPool",
    "as_completed",
    "get_node_ip_address",
    "inspect_serializability",
    "map_unordered",
]


def __getattr__(name: str) -> object:
    place = _PLACES.get(name)
    if place is not None:
        return getattr(importlib.import_module(place), name)
    if name in ("actor_pool", "metrics", "queue", "state"):
        return importlib.import_module(f"celery_actors.util.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
