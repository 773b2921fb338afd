"""Remote functions, under the name of Ray's module ``ray.remote_function``."""

from celery_actors.remote import RemoteFunction

__all__ = ["RemoteFunction"]
