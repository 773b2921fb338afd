"""What must be true of the records after every step, read from Redis and checked by other means.

The rules of placement are written here a second time, in the plainest way, over snapshots.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import redis

from celery_actors.control import ActorRecord, Control, GroupRecord, NodeRecord
from celery_actors.control.states import ACTOR_TRANSITIONS, GROUP_TRANSITIONS

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
    group: str
    bundle: int

    def names(self, node: NodeRecord) -> bool:
        return self.node in (node.node_id, node.name)

    def is_large_enough(self, node: NodeRecord) -> bool:
        if self.zones and node.labels.get("zone") not in self.zones:
            return False
        return all(node.resources.get(kind, 0) >= units for kind, units in self.want.items())

    def could_run_in(self, room: Room, nodes: Iterable[NodeRecord]) -> bool:
        """Whether it could have the room, were that idle."""
        if room.group != self.group or (self.bundle >= 0 and room.bundle != self.bundle):
            return False
        if self.group:
            return all(room.total.get(kind, 0) >= units for kind, units in self.want.items())
        return self.could_run_on(room.node, nodes)

    def could_run_on(self, node: NodeRecord, nodes: Iterable[NodeRecord]) -> bool:
        if not self.is_large_enough(node):
            return False
        if self.node is None or self.names(node):
            return True
        named_could = any(self.names(n) and self.is_large_enough(n) for n in nodes)
        return self.soft and (self.spill or not named_could)

    def claims(self, now: Snapshot) -> set[tuple[str, str]]:
        """What is kept for it: rooms (by name) and kinds."""
        nodes = now.nodes.values()
        return {
            (room.name, kind)
            for room in now.rooms
            if self.could_run_in(room, nodes) and room.cleared().has(self.want)
            for kind in self.want
        }

    def fits_somewhere(self, now: Snapshot, kept: set[tuple[str, str]]) -> bool:
        nodes = now.nodes.values()
        return any(
            self.could_run_in(room, nodes) and room.without(kept).has(self.want)
            for room in now.rooms
        )


@dataclass(frozen=True)
class Room:
    """A node or a bundle: what may be put into it."""

    name: str
    node: NodeRecord
    group: str
    bundle: int
    total: Mapping[str, int]
    free: Mapping[str, int]
    gpu_used: Mapping[int, int]
    grouped: Mapping[str, int]
    gpu_grouped: Mapping[int, int]

    def has(self, want: Mapping[str, int]) -> bool:
        if any(self.free.get(kind, 0) < units for kind, units in want.items()):
            return False
        gpus = want.get("GPU", 0)
        if gpus >= ONE:
            return sum(used == 0 for used in self.gpu_used.values()) * ONE >= gpus
        return not gpus or any(used + gpus <= ONE for used in self.gpu_used.values())

    def take(self, want: Mapping[str, int]) -> Room:
        """Return it without what is taken: whole GPUs, or a part of the fullest that has room."""
        used, gpus = dict(self.gpu_used), want.get("GPU", 0)
        if gpus >= ONE:
            for gpu in [gpu for gpu, part in used.items() if part == 0][: gpus // ONE]:
                used[gpu] = ONE
        elif gpus:
            roomy = [gpu for gpu, part in used.items() if part + gpus <= ONE]
            used[max(roomy, key=lambda gpu: used[gpu])] += gpus
        free = {kind: units - want.get(kind, 0) for kind, units in self.free.items()}
        return replace(self, free=free, gpu_used=used)

    def cleared(self) -> Room:
        """Return it with nothing in it but the bundles of groups."""
        free = {kind: units - self.grouped.get(kind, 0) for kind, units in self.total.items()}
        return replace(self, free=free, gpu_used=self.gpu_grouped)

    def without(self, kept: set[tuple[str, str]]) -> Room:
        free = {kind: units for kind, units in self.free.items() if (self.name, kind) not in kept}
        return replace(self, free=free)


@dataclass(frozen=True)
class GroupRequest:
    """The bundles that a group waits for."""

    order: int
    wants: tuple[Mapping[str, int], ...]
    strategy: str
    taken: tuple[str, ...]  # the nodes of its other bundles

    def can_be_laid_out(self, rooms: Iterable[Room]) -> bool:
        """Try every layout."""
        return self._search(self.wants, {room.name: room for room in rooms}, self.taken)

    def _search(
        self, wants: tuple[Mapping[str, int], ...], rooms: dict[str, Room], taken: tuple[str, ...]
    ) -> bool:
        if not wants:
            return True
        return any(
            self._search(
                wants[1:], {**rooms, name: room.take(wants[0])}, (*taken, room.node.node_id)
            )
            for name, room in rooms.items()
            if self._may_go(room.node.node_id, taken) and room.has(wants[0])
        )

    def _may_go(self, node_id: str, taken: tuple[str, ...]) -> bool:
        if self.strategy == "STRICT_PACK":
            return not taken or node_id in taken
        return self.strategy != "STRICT_SPREAD" or node_id not in taken

    def claims(self, now: Snapshot) -> set[tuple[str, str]]:
        idle = [room.cleared() for room in now.rooms if not room.group]
        if not self.can_be_laid_out(idle):
            return set()
        return {(room.name, kind) for room in idle for w in self.wants if room.has(w) for kind in w}

    def fits_somewhere(self, now: Snapshot, kept: set[tuple[str, str]]) -> bool:
        return self.can_be_laid_out(room.without(kept) for room in now.rooms if not room.group)


@dataclass(frozen=True)
class Snapshot:
    """All records at one moment."""

    actors: Mapping[str, ActorRecord]
    requests: Mapping[str, Request]
    nodes: Mapping[str, NodeRecord]
    reservations: Mapping[str, Mapping[str, dict[str, Any]]]
    groups: Mapping[str, GroupRecord]
    group_requests: Mapping[str, GroupRequest]  # of those that wait
    group_orders: Mapping[str, int]
    rooms: tuple[Room, ...]

    @classmethod
    def take(cls, control: Control, client: redis.Redis) -> Snapshot:
        actors = {actor.actor_id: actor for actor in control.actors()}
        nodes = {node.node_id: node for node in control.nodes()}
        return cls(
            actors,
            {actor_id: _request(client, actor_id) for actor_id in actors},
            nodes,
            {node_id: _reservations(client, node_id) for node_id in nodes},
            {group.group_id: group for group in control.groups()},
            {
                group.group_id: _group_request(client, group)
                for group in control.groups()
                if group.state in {"PENDING", "RESCHEDULING"}
            },
            {
                group.group_id: int(cast(bytes, client.hget(f"ca:group:{group.group_id}", "order")))
                for group in control.groups()
            },
            tuple(_rooms(client, nodes, control.groups())),
        )

    def pending(self) -> list[str]:
        """Return the ids of the actors that wait."""
        return [actor.actor_id for actor in self.actors.values() if actor.state == "PENDING"]

    def waiting(self) -> list[Request | GroupRequest]:
        """Return all that wait, oldest first."""
        actors = [self.requests[actor_id] for actor_id in self.pending()]
        return sorted([*actors, *self.group_requests.values()], key=lambda each: each.order)

    def room_of(self, actor: ActorRecord) -> str:
        """Return the name of the room that a placed actor is in."""
        held = self.reservations[actor.node_id or ""][actor.incarnation or ""]
        bundle = held.get("bundle")
        return f"ca:group:{bundle}" if bundle else f"ca:node:{actor.node_id}"


def _request(client: redis.Redis, actor_id: str) -> Request:
    order, shape = cast("list[bytes]", client.hmget(f"ca:actor:{actor_id}", ["order", "shape"]))
    parsed, _ = json.JSONDecoder().raw_decode(shape.decode())
    want = {kind: int(units) for kind, units in parsed["want"].items()}
    zones = frozenset(zone for _, _, zones in parsed.get("labels", ()) for zone in zones)
    return Request(
        int(order),
        want,
        parsed["node"],
        parsed["soft"],
        parsed.get("spill", False),
        zones,
        parsed.get("group", ""),
        parsed.get("bundle", -1),
    )


def _group_request(client: redis.Redis, group: GroupRecord) -> GroupRequest:
    order = client.hget(f"ca:group:{group.group_id}", "order")
    places = list(zip(group.bundles, group.node_ids, strict=True))
    return GroupRequest(
        int(cast(bytes, order)),
        tuple(bundle for bundle, node in places if node is None),
        group.strategy,
        tuple(node for _, node in places if node is not None),
    )


def _amounts(fields: Mapping[bytes, bytes], sort: bytes) -> dict[str, int]:
    return {
        name[2:].decode(): int(value) for name, value in fields.items() if name.startswith(sort)
    }


def _gpus(fields: Mapping[bytes, bytes], sort: bytes) -> dict[int, int]:
    return {int(gpu): part for gpu, part in sorted(_amounts(fields, sort).items())}


def _rooms(
    client: redis.Redis, nodes: Mapping[str, NodeRecord], groups: Iterable[GroupRecord]
) -> Iterator[Room]:
    keys = [(node_id, "", -1, f"ca:node:{node_id}") for node_id in nodes]
    keys += [
        (node_id, group.group_id, index, f"ca:group:{group.group_id}:{index}")
        for group in groups
        for index, node_id in enumerate(group.node_ids)
        if node_id is not None
    ]
    for node_id, group_id, index, key in keys:
        fields = cast("dict[bytes, bytes]", client.hgetall(key))
        used = _gpus(fields, b"g:")
        yield Room(
            key,
            nodes[node_id],
            group_id,
            index,
            _amounts(fields, b"t:"),
            _amounts(fields, b"f:"),
            used,
            _amounts(fields, b"b:"),
            {**dict.fromkeys(used, 0), **_gpus(fields, b"h:")},
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
    for group_id, group in after.groups.items():
        was = before.groups.get(group_id)
        if was is None:
            assert group.state in {"PENDING", "CREATED"}, step
        elif was.state != group.state:
            assert group.state in GROUP_TRANSITIONS[was.state], (step, was.state, group.state)
        elif was.node_ids != group.node_ids:
            assert step == "remove_node", "by way of RESCHEDULING"


def check_order(before: Snapshot, after: Snapshot) -> None:
    """Whoever was placed passed nobody who came before, wants the same, and could run there."""
    taken: list[tuple[int, str, Iterable[str]]] = []
    for actor_id, actor in after.actors.items():
        old = before.actors.get(actor_id)
        if actor.state == "PLACED" and not (old and old.incarnation == actor.incarnation):
            mine = after.requests[actor_id]
            taken.append((mine.order, after.room_of(actor), mine.want))
    for group_id, group in after.groups.items():
        was = before.groups.get(group_id)
        for index, node_id in enumerate(group.node_ids):
            if node_id is not None and (was is None or was.node_ids[index] != node_id):
                order = after.group_orders[group_id]
                taken.append((order, f"ca:node:{node_id}", group.bundles[index]))
    for other in after.waiting():
        claims = other.claims(after)
        for order, room, want in taken:
            assert other.order >= order or not claims & {(room, kind) for kind in want}


def check_nobody_waits_in_vain(now: Snapshot) -> None:
    """Whoever waits fits nowhere, but for what is kept for those before."""
    kept: set[tuple[str, str]] = set()
    for request in now.waiting():
        assert not request.fits_somewhere(now, kept)
        kept |= request.claims(now)


def check_resources(now: Snapshot, overcommitted: set[str]) -> None:
    """Free and reserved make the total; each GPU is given once; nothing is lost."""
    for node_id, node in now.nodes.items():
        reserved: dict[str, int] = defaultdict(int)
        gpu_used = dict.fromkeys(node.gpus, 0)
        for incarnation, held in now.reservations[node_id].items():
            for kind, units in dict(held["want"]).items():
                if "bundle" not in held and not (held["blocked"] and kind == "CPU"):
                    reserved[kind] += int(units)
            gpus = int(dict(held["want"]).get("GPU", 0))
            assert len(held["gpus"]) == -(-gpus // ONE)
            for gpu in held["gpus"]:
                if "bundle" not in held:
                    gpu_used[gpu] += min(gpus, ONE)
            actor = now.actors.get(held["actor"])
            assert actor is not None
            if actor.incarnation == incarnation:
                assert actor.node_id == node_id
                assert list(actor.gpu_ids) == list(held["gpus"])
            else:
                assert actor.state == "DEAD", "no restarts yet"
        assert node.reservations == len(now.reservations[node_id])
        node_room = next(room for room in now.rooms if room.name == f"ca:node:{node_id}")
        in_groups: dict[str, int] = defaultdict(int)
        gpu_in_groups = dict.fromkeys(node.gpus, 0)
        for room in now.rooms:
            if room.group and room.node is node:
                check_bundle(room, now)
                for kind, units in room.total.items():
                    reserved[kind] += units
                    in_groups[kind] += units
                for gpu in room.gpu_used:
                    gpu_used[gpu] += min(room.total["GPU"], ONE)
                    gpu_in_groups[gpu] += min(room.total["GPU"], ONE)
        assert all(in_groups[kind] == units for kind, units in node_room.grouped.items())
        assert set(in_groups) <= set(node_room.grouped)
        assert gpu_in_groups == node_room.gpu_grouped
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


def check_bundle(room: Room, now: Snapshot) -> None:
    """A bundle's free and reserved amounts make what it has taken of its node."""
    reserved: dict[str, int] = defaultdict(int)
    gpu_used = dict(room.gpu_grouped)
    group = now.groups[room.group]
    assert group.state in {"CREATED", "RESCHEDULING"}
    assert room.total == group.bundles[room.bundle]
    assert len(room.gpu_used) == -(-room.total.get("GPU", 0) // ONE)
    for held in now.reservations[room.node.node_id].values():
        if held.get("bundle") == f"{room.group}:{room.bundle}":
            for kind, units in dict(held["want"]).items():
                if not (held["blocked"] and kind == "CPU"):
                    reserved[kind] += int(units)
            for gpu in held["gpus"]:
                gpu_used[gpu] += min(int(held["want"]["GPU"]), ONE)
    for kind, total in room.total.items():
        assert room.free[kind] + reserved[kind] == total, kind
    assert gpu_used == room.gpu_used
    assert all(0 <= used <= ONE for used in gpu_used.values())


def check_groups(now: Snapshot, client: redis.Redis) -> None:
    """All bundles are reserved, or the group waits; what is reserved lies on living nodes."""
    listed = {
        (node_id, token.decode())
        for node_id in now.nodes
        for token in cast("set[bytes]", client.smembers(f"ca:node:{node_id}:bundles"))
    }
    reserved = set()
    for group in now.groups.values():
        nodes = [node for node in group.node_ids if node is not None]
        assert set(nodes) <= set(now.nodes)
        if group.state in {"PENDING", "REMOVED"}:
            assert not nodes
        elif group.state == "CREATED":
            assert len(nodes) == len(group.bundles)
            assert group.strategy != "STRICT_PACK" or len(set(nodes)) == 1
        else:
            assert len(nodes) < len(group.bundles)
        assert group.strategy != "STRICT_SPREAD" or len(set(nodes)) == len(nodes)
        for index, node in enumerate(group.node_ids):
            if node is not None:
                reserved.add((node, f"{group.group_id}:{index}"))
    assert listed == reserved
    keys = {key.decode() for key in client.scan_iter("ca:group:*:*")}
    assert keys == {f"ca:group:{token}" for _, token in reserved}
    for actor_id, request in now.requests.items():
        if request.group and now.actors[actor_id].state != "DEAD":
            assert now.groups[request.group].state != "REMOVED"


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
    assert control.waiting() == len(now.waiting())
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
    check_groups(after, client)
    check_holds(after, control, client)
    check_indexes(after, control, client)
    return after
