"""What must be true of the records after every step, read from Redis and checked by other means.

The rules of placement are written here a second time, in the plainest way, over snapshots.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import redis

from celery_actors.control import ActorRecord, Control, NodeRecord
from celery_actors.control.states import ACTOR_TRANSITIONS

from .cluster import ONE


@dataclass(frozen=True)
class Request:
    """What an actor asks for, as stored."""

    order: int
    want: Mapping[str, int]
    node: str | None
    soft: bool
    spill: bool
    zones: frozenset[str]

    def names(self, node: NodeRecord) -> bool:
        return self.node in (node.node_id, node.name)

    def is_large_enough(self, node: NodeRecord) -> bool:
        if self.zones and node.labels.get("zone") not in self.zones:
            return False
        return all(node.resources.get(kind, 0) >= units for kind, units in self.want.items())

    def could_run_on(self, node: NodeRecord, nodes: Iterable[NodeRecord]) -> bool:
        if not self.is_large_enough(node):
            return False
        if self.node is None or self.names(node):
            return True
        named_could = any(self.names(n) and self.is_large_enough(n) for n in nodes)
        return self.soft and (self.spill or not named_could)

    def fits(
        self, node: NodeRecord, nodes: Iterable[NodeRecord], kept: set[tuple[str, str]]
    ) -> bool:
        if not self.could_run_on(node, nodes):
            return False
        if any((node.node_id, kind) in kept for kind in self.want):
            return False
        if any(node.available[kind] < units for kind, units in self.want.items()):
            return False
        gpus = self.want.get("GPU", 0)
        if gpus >= ONE:
            return len(node.free_gpus) * ONE >= gpus
        return not gpus or any(used + gpus <= ONE for used in node.gpu_used.values())


@dataclass(frozen=True)
class Snapshot:
    """All records at one moment."""

    actors: Mapping[str, ActorRecord]
    requests: Mapping[str, Request]
    nodes: Mapping[str, NodeRecord]
    reservations: Mapping[str, Mapping[str, dict[str, Any]]]

    @classmethod
    def take(cls, control: Control, client: redis.Redis) -> Snapshot:
        actors = {actor.actor_id: actor for actor in control.actors()}
        nodes = {node.node_id: node for node in control.nodes()}
        return cls(
            actors,
            {actor_id: _request(client, actor_id) for actor_id in actors},
            nodes,
            {node_id: _reservations(client, node_id) for node_id in nodes},
        )

    def pending(self) -> list[str]:
        """Return the ids of those that wait, oldest first."""
        waiting = [actor.actor_id for actor in self.actors.values() if actor.state == "PENDING"]
        return sorted(waiting, key=lambda actor_id: self.requests[actor_id].order)


def _request(client: redis.Redis, actor_id: str) -> Request:
    order, shape = cast("list[bytes]", client.hmget(f"ca:actor:{actor_id}", ["order", "shape"]))
    parsed, _ = json.JSONDecoder().raw_decode(shape.decode())
    want = {kind: int(units) for kind, units in parsed["want"].items()}
    zones = frozenset(zone for _, _, zones in parsed.get("labels", ()) for zone in zones)
    return Request(
        int(order), want, parsed["node"], parsed["soft"], parsed.get("spill", False), zones
    )


def _reservations(client: redis.Redis, node_id: str) -> dict[str, dict[str, Any]]:
    flat = cast("dict[bytes, bytes]", client.hgetall(f"ca:node:{node_id}:reservations"))
    return {incarnation.decode(): json.loads(raw) for incarnation, raw in flat.items()}


def check_change(before: Snapshot, after: Snapshot, step: str) -> None:
    """Every change of a state that was seen is in the tables."""
    assert set(before.nodes) <= set(after.nodes) or step == "remove_node"
    assert set(after.nodes) <= set(before.nodes) or step == "register_node"
    for actor_id, actor in after.actors.items():
        old = before.actors.get(actor_id)
        if old is None:
            assert actor.state in {"PENDING", "PLACED"}, step
        elif old.state != actor.state:
            assert actor.state in ACTOR_TRANSITIONS[old.state], (step, old.state, actor.state)
        elif old.incarnation != actor.incarnation:
            assert actor.state == "PLACED", step
            assert step in {"sweep_unstarted", "remove_node"}, "by way of PENDING"


def check_order(before: Snapshot, after: Snapshot) -> None:
    """Whoever was placed passed nobody who came before, wants the same, and could run there."""
    for actor_id, actor in after.actors.items():
        old = before.actors.get(actor_id)
        if actor.state != "PLACED" or (old and old.incarnation == actor.incarnation):
            continue
        mine = after.requests[actor_id]
        for other_id in after.pending():
            other = after.requests[other_id]
            if other.order < mine.order and set(other.want) & set(mine.want):
                node = after.nodes[actor.node_id or ""]
                assert not other.could_run_on(node, after.nodes.values())


def check_nobody_waits_in_vain(now: Snapshot) -> None:
    """Whoever waits fits nowhere, but for what is kept for those before."""
    kept: set[tuple[str, str]] = set()
    for actor_id in now.pending():
        request = now.requests[actor_id]
        nodes = now.nodes.values()
        assert not any(request.fits(node, nodes, kept) for node in nodes)
        kept |= {
            (node.node_id, kind)
            for node in nodes
            if request.could_run_on(node, nodes)
            for kind in request.want
        }


def check_resources(now: Snapshot, overcommitted: set[str]) -> None:
    """Free and reserved make the total; each GPU is given once; nothing is lost."""
    for node_id, node in now.nodes.items():
        reserved: dict[str, int] = defaultdict(int)
        gpu_used = dict.fromkeys(node.gpus, 0)
        for incarnation, held in now.reservations[node_id].items():
            for kind, units in dict(held["want"]).items():
                if not (held["blocked"] and kind == "CPU"):
                    reserved[kind] += int(units)
            gpus = int(dict(held["want"]).get("GPU", 0))
            assert len(held["gpus"]) == -(-gpus // ONE)
            for gpu in held["gpus"]:
                gpu_used[gpu] += min(gpus, ONE)
            actor = now.actors.get(held["actor"])
            assert actor is not None
            if actor.incarnation == incarnation:
                assert actor.node_id == node_id
                assert list(actor.gpu_ids) == list(held["gpus"])
            else:
                assert actor.state == "DEAD", "no restarts yet"
        assert node.reservations == len(now.reservations[node_id])
        for kind, total in node.resources.items():
            assert node.available[kind] + reserved[kind] == total, kind
            assert node.available[kind] >= 0 or (kind == "CPU" and node_id in overcommitted)
        assert gpu_used == node.gpu_used
        assert all(0 <= used <= ONE for used in gpu_used.values())
    for actor in now.actors.values():
        if actor.state in {"PLACED", "STARTING", "ALIVE", "STOPPING"}:
            assert actor.incarnation in now.reservations[actor.node_id or ""]
        else:
            assert actor.incarnation is None


def check_holds(now: Snapshot, control: Control, client: redis.Redis) -> None:
    """Both sides of a hold agree; who has none is on the way out."""
    by_actor, by_owner = set(), set()
    for key in client.scan_iter("ca:holds:*"):
        for raw in cast("set[bytes]", client.smembers(key)):
            by_actor.add((key.decode().removeprefix("ca:holds:"), raw.decode()))
    for key in client.scan_iter("ca:owned:*"):
        owner = key.decode().removeprefix("ca:owned:")
        for raw in cast("set[bytes]", client.smembers(key)):
            by_owner.add((raw.decode()[:32], f"{owner}/{raw.decode()[32:]}"))
    assert by_actor == by_owner
    held = {actor_id for actor_id, _ in by_actor}
    for actor in now.actors.values():
        if actor.actor_id not in held and not actor.detached and actor.state != "DEAD":
            assert actor.stopping
        if actor.stopping or actor.state == "DEAD":
            assert actor.actor_id not in held
        assert (actor.state == "STOPPING") <= actor.stopping
    running_jobs = {job.job_id for job in control.jobs() if job.ended_at is None}
    lingering = set(control.lingering_callers())
    for _, token in by_actor:
        owner, rest = token.split("/")
        if rest == "job":
            assert owner in running_jobs
        elif not control.caller_alive(owner):
            assert owner in lingering
            assert rest.startswith("c")


def check_indexes(now: Snapshot, control: Control, client: redis.Redis) -> None:
    """Sets that list others list them all, and nothing else."""
    lines = {key.decode().removeprefix("ca:waiting:") for key in client.scan_iter("ca:waiting:*")}
    shapes = cast("set[bytes]", client.smembers("ca:shapes"))
    assert lines == {shape.decode() for shape in shapes}
    assert control.waiting() == len(now.pending())
    placed = cast("list[bytes]", client.zrange("ca:placed", 0, -1))
    assert {actor_id.decode() for actor_id in placed} == {
        actor.actor_id for actor in now.actors.values() if actor.state == "PLACED"
    }
    unreaped = {
        held["actor"] for node in now.reservations.values() for held in node.values()
    } | set(now.pending())
    by_job: dict[str, set[str]] = defaultdict(set)
    for actor in now.actors.values():
        if actor.actor_id in unreaped:
            by_job[actor.job_id].add(actor.actor_id)
    for job in {actor.job_id for actor in now.actors.values()}:
        assert set(control.job_actors(job)) == by_job[job]


def check_all(
    before: Snapshot,
    control: Control,
    client: redis.Redis,
    step: str,
    overcommitted: set[str],
) -> Snapshot:
    """Check the records after a step; return them."""
    after = Snapshot.take(control, client)
    check_change(before, after, step)
    check_order(before, after)
    check_nobody_waits_in_vain(after)
    check_resources(after, overcommitted)
    check_holds(after, control, client)
    check_indexes(after, control, client)
    return after
