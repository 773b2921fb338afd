"""What a process uses Redis with: one client, and what is written and read through it."""

from __future__ import annotations

from dataclasses import dataclass

import redis

from celery_actors.config import Settings
from celery_actors.control import Control
from celery_actors.store.connection import open_redis
from celery_actors.store.results import Results

__all__ = ["Stores"]


@dataclass(frozen=True, slots=True)
class Stores:
    """Connects when it is first used; what was made before a fork, each process on its own."""

    redis: redis.Redis
    control: Control
    results: Results

    @classmethod
    def of(cls, settings: Settings) -> Stores:
        """Return those of a cluster."""
        client = open_redis(settings)
        return cls(
            client,
            Control(client, settings.prefix),
            Results(client, settings.prefix, settings.result_ttl),
        )
