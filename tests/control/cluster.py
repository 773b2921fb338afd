"""Short words for what the tests of the records do over and over."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import cast

import redis

from celery_actors.control import (
    ActorRecord,
    ActorSpec,
    Control,
    Creation,
    GroupRecord,
    GroupSpec,
    GroupStrategy,
    NodeSpec,
    Placement,
    StartOrder,
    Target,
)

ONE = 10_000


class Cluster:
    """Records under test, with one driver and readable ids made by counting."""

    def __init__(self, control: Control, client: redis.Redis) -> None:
        self.control = control
        self.client = client
        self._numbers: Iterator[int] = itertools.count(1)
        self.job = self.short_id()
        self.driver = self.short_id()
        control.register_caller(self.driver, self.job, lease=60, node_id=None, driver=True)

    def short_id(self) -> str:
        return f"{next(self._numbers):016x}"

    def long_id(self) -> str:
        return f"{next(self._numbers):032x}"

    def node(
        self,
        name: str,
        *,
        lease: float = 60,
        gpus: tuple[int, ...] = (),
        labels: Mapping[str, str] | None = None,
        **resources: float,
    ) -> str:
        node_id = self.long_id()
        amounts = units(resources)
        if gpus:
            amounts["GPU"] = len(gpus) * ONE
        spec = NodeSpec(node_id, name, "host", 1, amounts, gpus, labels or {})
        self.control.register_node(spec, lease)
        return node_id

    def caller(self, node_id: str | None = None) -> str:
        caller_id = self.short_id()
        lease = None if node_id else 60.0
        self.control.register_caller(caller_id, self.job, lease=lease, node_id=node_id)
        return caller_id

    def spec(
        self,
        *,
        caller: str | None = None,
        kind: str = "actor",
        detached: bool = False,
        node: str | None = None,
        soft: bool = False,
        spread: bool = False,
        target: Target | None = None,
        **resources: float,
    ) -> ActorSpec:
        return ActorSpec(
            actor_id=self.long_id(),
            job_id=self.job,
            caller_id=caller or self.driver,
            kind="executor" if kind == "executor" else "actor",
            class_name="NeuralNet",
            resources=units(resources),
            blob=b"\x00blob\xff",
            detached=detached,
            target=target or Target(node, soft, spread=spread),
        )

    def create(self, spec: ActorSpec) -> Creation:
        return self.control.create(spec)

    def actor(self, **options: object) -> str:
        spec = self.spec(**options)  # type: ignore[arg-type]
        self.control.create(spec)
        return spec.actor_id

    def group(
        self,
        *bundles: Mapping[str, float],
        strategy: GroupStrategy = "PACK",
        job: str | None = None,
        caller: str | None = None,
        **options: object,
    ) -> str:
        spec = GroupSpec(
            self.long_id(),
            job or self.job,
            caller or self.driver,
            tuple(units(bundle) for bundle in bundles),
            strategy,
            **options,  # type: ignore[arg-type]
        )
        self.control.create_group(spec)
        return spec.group_id

    def group_record(self, group_id: str) -> GroupRecord:
        record = self.control.group(group_id)
        assert record is not None
        return record

    def group_nodes(self, group_id: str) -> list[str]:
        """Return the names of the nodes of a group's bundles, '' where there is none."""
        names = {node.node_id: node.name for node in self.control.nodes()}
        return [names.get(node or "", "") for node in self.group_record(group_id).node_ids]

    def member(self, group_id: str, bundle: int = -1, **options: object) -> str:
        """Create an actor in a group."""
        return self.actor(target=Target(group=group_id, bundle=bundle), **options)

    def record(self, actor_id: str) -> ActorRecord:
        record = self.control.actor(actor_id)
        assert record is not None
        return record

    def state(self, actor_id: str) -> str:
        return self.record(actor_id).state

    def node_name(self, actor_id: str) -> str | None:
        names = {node.node_id: node.name for node in self.control.nodes()}
        return names.get(self.record(actor_id).node_id or "")

    def placement(self, actor_id: str) -> Placement:
        record = self.record(actor_id)
        assert record.incarnation is not None
        assert record.node_id is not None
        return Placement(
            actor_id, record.incarnation, record.node_id, record.kind, record.caller_id
        )

    def begin(self, actor_id: str) -> StartOrder:
        placement = self.placement(actor_id)
        order = self.control.begin(
            actor_id, placement.incarnation, placement.node_id, self.short_id()
        )
        assert order is not None
        return order

    def run(self, actor_id: str, pid: int = 7) -> Placement:
        """Take a placed actor all the way to ALIVE."""
        self.begin(actor_id)
        placement = self.placement(actor_id)
        assert self.control.alive(actor_id, placement.incarnation, pid)
        return placement

    def reap(self, placement: Placement) -> tuple[Placement, ...]:
        return self.control.reaped(
            placement.actor_id, placement.incarnation, placement.node_id, "reaped"
        ).placements

    def sweep(self) -> tuple[Placement, ...]:
        """Sweep as if all that is placed and not begun had been so for long."""
        for actor_id in cast("list[bytes]", self.client.zrange("ca:placed", 0, -1)):
            self.client.zadd("ca:placed", {actor_id.decode(): 1})
        return self.control.sweep_unstarted(30)

    def available(self, name: str) -> Mapping[str, int]:
        return next(node.available for node in self.control.nodes() if node.name == name)

    def all_keys(self) -> set[str]:
        return {key.decode() for key in self.client.scan_iter()}


def units(resources: Mapping[str, float]) -> dict[str, int]:
    return {kind: round(amount * ONE) for kind, amount in resources.items()}


def ids(placements: tuple[Placement, ...]) -> list[str]:
    return [placement.actor_id for placement in placements]
