"""The labels of a node: those it was given, and those that every node has (Ray's names)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from celery_actors.worker.resources import GPU

__all__ = ["ACCELERATOR_TYPE", "NODE_ID", "node_labels"]

NODE_ID = "ray.io/node-id"
ACCELERATOR_TYPE = "ray.io/accelerator-type"


def node_labels(node_id: str, gpus: Iterable[GPU], declared: Mapping[str, str]) -> dict[str, str]:
    """Return a node's labels.

    ``ray.io/node-id`` is its id.  ``ray.io/accelerator-type`` is the model of its first GPU
    that is real (``H100``), unless it was declared.

    :param declared: from ``--labels``.
    """
    labels: dict[str, str] = {}
    for gpu in gpus:
        # "NVIDIA H100 80GB HBM3", "Tesla V100-SXM2-16GB": the word behind the maker's.
        model = re.match(r"\w+ ([A-Z0-9]+)\b", gpu.name)
        if model:
            labels[ACCELERATOR_TYPE] = model[1]
            break
    return {**labels, **declared, NODE_ID: node_id}
