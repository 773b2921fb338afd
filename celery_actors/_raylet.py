"""Types that public programs import from Ray's private module ``ray._raylet``."""

from celery_actors.generators import ObjectRefGenerator
from celery_actors.ids import (
    ActorID,
    JobID,
    NodeID,
    PlacementGroupID,
    TaskID,
    UniqueID,
    WorkerID,
)
from celery_actors.refs import ObjectRef

__all__ = [
    "ActorID",
    "JobID",
    "NodeID",
    "ObjectID",
    "ObjectRef",
    "ObjectRefGenerator",
    "PlacementGroupID",
    "TaskID",
    "UniqueID",
    "WorkerID",
]

ObjectID = ObjectRef
