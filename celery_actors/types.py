"""``ray.types``: ``ObjectRef`` for annotations, e.g. ``ObjectRef[int]``."""

from celery_actors.refs import ObjectRef

__all__ = ["ObjectRef"]
