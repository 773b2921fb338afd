"""What Ray has under ``ray.util``."""

# As in Ray, the function hides the module of its name, which `from … import` still finds.
from celery_actors.util.placement_group import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

__all__ = [
    "get_current_placement_group",
    "get_placement_group",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]
