"""The records of nodes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

from celery_actors.control.answers import Answer, milliseconds, seconds, texts
from celery_actors.control.errors import NodeNameTaken
from celery_actors.control.records import (
    WHOLE,
    Expired,
    Missed,
    NodeRecord,
    NodeRemoval,
    NodeSpec,
    Placement,
)
from celery_actors.control.scripts import Scripts

# How old a placement, a death or a drain must be before a node is told of it once more.
_PATIENCE = 2.0


class Nodes:
    """Registers, renews and removes nodes."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    def register(self, node: NodeSpec, lease: float) -> tuple[Placement, ...]:
        """See :meth:`Control.register_node`."""
        if node.resources.get("GPU", 0) != len(node.gpus) * WHOLE:
            raise ValueError(
                f"node {node.name}: {len(node.gpus)} GPU ids do not match "
                f"{node.resources.get('GPU', 0) / WHOLE:g} GPUs"
            )
        answer = Answer(
            self._scripts.run(
                "register_node",
                node.node_id,
                node.name,
                node.host,
                node.pid,
                json.dumps(dict(node.labels)),
                milliseconds(lease),
                # As text: a Lua number cannot hold every amount (bytes of memory) exactly.
                json.dumps({kind: str(n) for kind, n in node.resources.items() if n > 0}),
                json.dumps(sorted(node.gpus)),
                node.cores,
                node.address,
            )
        )
        if answer.get("taken"):
            raise NodeNameTaken(
                f"a live node ({answer.get('taken')}) is called {node.name} already"
            )
        return answer.placements()

    def renew(self, node_id: str, lease: float) -> bool:
        """See :meth:`Control.renew_node`."""
        return bool(self._scripts.run("renew_node", node_id, milliseconds(lease)))

    def missed(self, node_id: str) -> Missed:
        """See :meth:`Control.missed`."""
        answer = Answer(self._scripts.run("missed", node_id, milliseconds(_PATIENCE)))
        return Missed(
            answer.placements("unstarted"), answer.placements("stale"), answer.ids("stopping")
        )

    def remove(self, node_id: str, cause: str) -> NodeRemoval:
        """See :meth:`Control.remove_node`."""
        answer = Answer(self._scripts.run("remove_node", node_id, cause))
        return NodeRemoval(
            answer.ids("died"),
            answer.ids("stopping"),
            answer.placements("stop"),
            answer.ids("cancelled"),
            answer.placements(),
        )

    def all(self) -> list[NodeRecord]:
        """See :meth:`Control.nodes`."""
        rows = cast("list[tuple[bytes, bytes, int, list[bytes]]]", self._scripts.run("nodes"))
        return sorted((_node(*row) for row in rows), key=lambda node: node.name)

    def expired(self) -> Expired:
        """See :meth:`Control.expired`."""
        nodes, callers = cast("tuple[list[bytes], list[bytes]]", self._scripts.run("expired"))
        return Expired(tuple(texts(nodes)), tuple(texts(callers)))


def _node(node_id: bytes, lease_ends: bytes, reservations: int, flat: list[bytes]) -> NodeRecord:
    fields = {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}
    used = {int(gpu): amount for gpu, amount in _amounts(fields, "g:").items()}
    return NodeRecord(
        node_id=node_id.decode(),
        name=fields["name"].decode(),
        host=fields["host"].decode(),
        pid=int(fields["pid"]),
        resources=_amounts(fields, "t:"),
        available=_amounts(fields, "f:"),
        gpus=tuple(sorted(used)),
        free_gpus=tuple(sorted(gpu for gpu, amount in used.items() if amount == 0)),
        gpu_used=used,
        labels=json.loads(fields["labels"]),
        reservations=reservations,
        joined_at=seconds(fields["joined"]),
        lease_ends=seconds(lease_ends),
        cores=int(fields["cores"]),
        address=fields["address"].decode(),
    )


def _amounts(fields: Mapping[str, bytes], sort: str) -> dict[str, int]:
    return {
        name.removeprefix(sort): int(value)
        for name, value in fields.items()
        if name.startswith(sort)
    }
