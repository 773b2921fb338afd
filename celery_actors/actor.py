"""Actors, under the names of Ray's module ``ray.actor``."""

from celery_actors.handle import ActorHandle, ActorMethod, ActorProxy
from celery_actors.remote import ActorClass, ActorClassInheritanceException
from celery_actors.worker.exits import exit_actor

__all__ = [
    "ActorClass",
    "ActorClassInheritanceException",
    "ActorHandle",
    "ActorMethod",
    "ActorProxy",
    "exit_actor",
]
