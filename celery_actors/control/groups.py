"""The records of placement groups."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

from celery_actors.control.answers import Answer, seconds
from celery_actors.control.errors import CallerGone, GroupNameTaken
from celery_actors.control.records import (
    GROUP_FIELDS,
    GroupRecord,
    GroupRemoval,
    GroupSpec,
    GroupStrategy,
)
from celery_actors.control.scripts import Scripts
from celery_actors.control.states import GroupState
from celery_actors.control.targets import compact, rule_fields


class Groups:
    """Creates, removes and lists placement groups."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    def create(self, spec: GroupSpec) -> None:
        """See :meth:`Control.create_group`."""
        answer = Answer(
            self._scripts.run(
                "create_group",
                spec.group_id,
                spec.job_id,
                spec.caller_id,
                spec.creator_actor,
                spec.name,
                spec.namespace,
                int(spec.detached),
                _shape(spec),
                len(spec.bundles),
            )
        )
        if answer.flag("gone"):
            raise CallerGone(f"caller {spec.caller_id} is not registered or has been ended")
        if answer.get("taken"):
            raise GroupNameTaken(
                f"there is a placement group {spec.name!r} already ({answer.get('taken')}): "
                "get it with get_placement_group(), or remove it first"
            )

    def read(self, group_id: str) -> GroupRecord | None:
        """See :meth:`Control.group`."""
        rows = self._scripts.run("groups_known", group_id)
        return _record(rows[0]) if rows else None

    def all(self) -> list[GroupRecord]:
        """See :meth:`Control.groups`."""
        return [_record(row) for row in self._scripts.run("groups_known", "")]

    def named(self, namespace: str, name: str) -> str | None:
        """See :meth:`Control.named_group`."""
        group_id = self._scripts.run("named_group", namespace, name)
        return cast(bytes, group_id).decode() if group_id else None

    def remove(self, group_id: str, cause: str) -> GroupRemoval:
        """See :meth:`Control.remove_group`."""
        answer = Answer(self._scripts.run("remove_group", group_id, cause))
        return GroupRemoval(answer.placements("stop"), answer.ids("cancelled"), answer.placements())


def _shape(spec: GroupSpec) -> str:
    fields: dict[str, Any] = {
        "strategy": spec.strategy,
        "bundles": [
            {kind: str(amount) for kind, amount in bundle.items() if amount}
            for bundle in spec.bundles
        ],
    }
    if any(spec.labels):
        fields["labels"] = [rule_fields(rules) for rules in spec.labels]
    return compact(fields)


def _record(row: Sequence[bytes]) -> GroupRecord:
    group_id, *values = row
    fields = dict(zip(GROUP_FIELDS, values, strict=True))
    shape = json.loads(fields["shape"])
    return GroupRecord(
        group_id=group_id.decode(),
        state=cast(GroupState, fields["state"].decode()),
        name=fields["name"].decode(),
        namespace=fields["namespace"].decode(),
        job_id=fields["job"].decode(),
        detached=fields["detached"] == b"1",
        strategy=cast(GroupStrategy, shape["strategy"]),
        bundles=tuple(
            {kind: int(amount) for kind, amount in bundle.items()} for bundle in shape["bundles"]
        ),
        node_ids=tuple(node or None for node in json.loads(fields["nodes"])),
        created_at=seconds(fields["created"]),
        placed_at=seconds(fields["placed"]) if fields["placed"] else None,
        state_since=seconds(fields["since"]),
        attempts=int(fields["attempts"] or 0),
    )
