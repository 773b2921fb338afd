"""The state API (as Ray's ``ray.util.state``): what there is in the cluster, and how it does.

Example::

    from celery_actors.util.state import list_actors

    for actor in list_actors(filters=[("state", "=", "ALIVE")]):
        print(actor.class_name, actor["pid"])
"""

from celery_actors.state.listing import (
    get_actor,
    get_job,
    get_node,
    get_placement_group,
    get_task,
    get_worker,
    list_actors,
    list_jobs,
    list_nodes,
    list_placement_groups,
    list_tasks,
    list_workers,
)
from celery_actors.state.schema import (
    ActorState,
    JobState,
    NodeState,
    PlacementGroupState,
    StateSchema,
    TaskState,
    WorkerState,
)
from celery_actors.state.summary import summarize_actors, summarize_tasks

__all__ = [
    "ActorState",
    "JobState",
    "NodeState",
    "PlacementGroupState",
    "StateSchema",
    "TaskState",
    "WorkerState",
    "get_actor",
    "get_job",
    "get_node",
    "get_placement_group",
    "get_task",
    "get_worker",
    "list_actors",
    "list_jobs",
    "list_nodes",
    "list_placement_groups",
    "list_tasks",
    "list_workers",
    "summarize_actors",
    "summarize_tasks",
]
