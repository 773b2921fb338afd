"""Long random sequences of everything that can be done, checked after every step."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest
import redis

from celery_actors.control import (
    ActorSpec,
    Control,
    GroupNameTaken,
    GroupRecord,
    GroupSpec,
    InsufficientResources,
    LabelRule,
    NodeSpec,
    Placement,
    Reaped,
    Target,
)

from .cluster import ONE
from .invariants import Snapshot, check_all

STEPS = 250


class Walk:
    """One random sequence; a process is what was begun and is not reaped."""

    def __init__(self, control: Control, client: redis.Redis, seed: int) -> None:
        self.control = control
        self.client = client
        self.random = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.jobs: dict[str, str] = {}  # job -> driver, running ones
        self.callers: dict[str, str] = {}  # caller -> job, living ones
        self.ended: list[str] = []
        self.actors: list[str] = []
        self.processes: list[Placement] = []
        self.overcommitted: set[str] = set()
        self.seen: set[str] = set()
        self.now = Snapshot.take(control, client)
        self.steps: dict[Callable[[], None], int] = {
            self.create: 12,
            self.begin: 10,
            self.alive: 8,
            self.reaped: 6,
            self.kill: 3,
            self.failed: 2,
            self.block: 3,
            self.unblock: 3,
            self.hold: 5,
            self.move_hold: 4,
            self.release_hold: 5,
            self.register_node: 2,
            self.remove_node: 1,
            self.renew_node: 1,
            self.register_caller: 3,
            self.end_caller: 2,
            self.settle_calls: 1,
            self.sweep_unstarted: 1,
            self.register_driver: 1,
            self.forget_job: 1,
            self.create_group: 3,
            self.create_member: 5,
            self.remove_group: 1,
        }

    def id(self, digits: int) -> str:
        return f"{self.random.getrandbits(4 * digits):0{digits}x}"

    def step(self) -> None:
        (action,) = self.random.choices(list(self.steps), list(self.steps.values()))
        self.run(action)

    def run(self, action: Callable[[], None]) -> None:
        action()
        name = action.__name__
        self.now = check_all(self.now, self.control, self.client, name, self.overcommitted)
        self.seen |= {group.state for group in self.now.groups.values()}

    def some_actor(self, *states: str) -> str | None:
        """Return a known actor, mostly in one of the states, sometimes in any."""
        fitting = [a for a in self.actors if self.state(a) in states]
        pool = fitting if fitting and self.random.random() < 0.85 else self.actors
        return self.random.choice(pool) if pool else None

    def state(self, actor_id: str) -> str | None:
        record = self.now.actors.get(actor_id)
        return record.state if record else None

    def incarnation(self, actor_id: str) -> tuple[str, str]:
        """Return an actor's incarnation and node, sometimes wrong ones."""
        record = self.now.actors.get(actor_id)
        if record is None or record.incarnation is None or self.random.random() < 0.1:
            return self.id(16), self.id(32)
        return record.incarnation, record.node_id or ""

    # Nodes

    def register_node(self) -> None:
        if len(self.now.nodes) >= 4:
            return
        gpus = tuple(range(self.random.choice((0, 1, 2, 4))))
        resources = {"CPU": self.random.choice((1, 2, 4)) * ONE, "GPU": len(gpus) * ONE}
        if self.random.random() < 0.3:
            resources["robot"] = ONE
        name = self.random.choice([n for n in "abcdefgh" if n not in self.names()])
        labels = {"zone": self.random.choice("xy")} if self.random.random() < 0.7 else {}
        spec = NodeSpec(self.id(32), name, "h", 1, resources, gpus, labels)
        self.control.register_node(spec, 600)

    def names(self) -> set[str]:
        return {node.name for node in self.now.nodes.values()}

    def remove_node(self) -> None:
        if self.now.nodes:
            node_id = self.random.choice(list(self.now.nodes))
            self.control.remove_node(node_id, "lost")
            self.processes = [p for p in self.processes if p.node_id != node_id]
            self.lose_callers()

    def renew_node(self) -> None:
        for node_id in self.now.nodes:
            assert self.control.renew_node(node_id, 600)

    # Callers and jobs

    def register_driver(self) -> None:
        if len(self.jobs) < 2:
            job, driver = self.id(16), self.id(16)
            self.control.register_caller(driver, job, lease=600, node_id=None, driver=True)
            self.jobs[job] = driver
            self.callers[driver] = job

    def register_caller(self) -> None:
        if not self.jobs:
            return
        caller, job = self.id(16), self.random.choice(list(self.jobs))
        node = self.random.choice([None, *self.now.nodes])
        lease = None if node else 600
        self.control.register_caller(caller, job, lease=lease, node_id=node)
        self.callers[caller] = job

    def lose_callers(self) -> None:
        for caller in list(self.callers):
            if not self.control.caller_alive(caller):
                del self.callers[caller]
                self.ended.append(caller)

    def end_caller(self) -> None:
        known = [*self.callers, *self.ended[-5:]]
        # A driver takes its whole job along: not too often.
        if self.random.random() < 0.7:
            known = [caller for caller in known if caller not in self.jobs.values()]
        if known:
            self.end(self.random.choice(known))

    def end(self, caller: str) -> None:
        ended = self.control.end_caller(caller)
        begun = {(p.actor_id, p.incarnation) for p in self.processes}
        assert {(p.actor_id, p.incarnation) for p in ended.stop} <= begun
        self.jobs = {job: driver for job, driver in self.jobs.items() if driver != caller}
        self.lose_callers()

    def settle_calls(self) -> None:
        lingering = self.control.lingering_callers()
        if lingering and self.actors:
            self.control.settle_calls(
                self.random.choice(lingering), self.random.choice(self.actors)
            )

    def forget_job(self) -> None:
        over = [job.job_id for job in self.control.jobs() if job.ended_at is not None]
        if over:
            self.control.forget_job(self.random.choice(over))

    # Actors

    def create(self) -> None:
        if not self.callers:
            return
        caller = self.random.choice(list(self.callers))
        spec = ActorSpec(
            actor_id=self.id(32),
            job_id=self.callers[caller],
            caller_id=caller,
            kind=self.random.choice(("actor", "executor")),
            class_name="Walker",
            resources=self.some_resources(),
            blob=b"blob",
            detached=self.random.random() < 0.1,
            target=self.some_target(),
        )
        try:
            self.control.create(spec)
        except InsufficientResources:
            assert self.control.actor(spec.actor_id) is None
        else:
            self.actors.append(spec.actor_id)

    # Placement groups

    def create_group(self) -> None:
        if not self.callers:
            return
        caller = self.random.choice(list(self.callers))
        spec = GroupSpec(
            self.id(32),
            self.callers[caller],
            caller,
            tuple(self.some_bundle() for _ in range(self.random.choice((1, 1, 2, 3)))),
            self.random.choice(("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")),
            name=self.random.choice(("", "", "name")),
            detached=self.random.random() < 0.1,
        )
        try:
            self.control.create_group(spec)
        except GroupNameTaken:
            assert self.control.group(spec.group_id) is None

    def some_bundle(self) -> dict[str, int]:
        bundle = {"CPU": self.random.choice((5000, ONE, ONE, 2 * ONE))}
        if self.random.random() < 0.3:
            bundle["GPU"] = self.random.choice((1, 1, 2)) * ONE
        return bundle

    def some_group(self) -> GroupRecord | None:
        groups = [group for group in self.now.groups.values() if group.state != "REMOVED"]
        return self.random.choice(groups) if groups else None

    def create_member(self) -> None:
        group = self.some_group()
        if group is None or not self.callers:
            return
        index = self.random.randrange(len(group.bundles))
        wanted = {
            kind: self.random.choice((units, units, 2500 if units <= ONE else ONE))
            for kind, units in group.bundles[index].items()
            if self.random.random() < 0.8
        }
        caller = self.random.choice(list(self.callers))
        spec = ActorSpec(
            actor_id=self.id(32),
            job_id=self.callers[caller],
            caller_id=caller,
            kind=self.random.choice(("actor", "executor")),
            class_name="Member",
            resources=wanted,
            blob=b"blob",
            target=Target(group=group.group_id, bundle=self.random.choice((-1, index))),
        )
        self.control.create(spec)
        self.actors.append(spec.actor_id)

    def remove_group(self) -> None:
        group = self.some_group()
        if group is not None:
            removal = self.control.remove_group(group.group_id, "removed")
            begun = {(p.actor_id, p.incarnation) for p in self.processes}
            assert {(p.actor_id, p.incarnation) for p in removal.stop} <= begun

    def some_target(self) -> Target:
        chance = self.random.random
        nodes = [*sorted(self.names()), *sorted(self.now.nodes)]
        soft = chance() < 0.5
        return Target(
            node=self.random.choice(nodes) if nodes and chance() < 0.3 else None,
            soft=soft,
            spill=soft and chance() < 0.5,
            spread=chance() < 0.2,
            labels=(LabelRule("zone", "in", ("x",)),) if chance() < 0.1 else (),
            preferred=(LabelRule("zone", "!in", ("x",)),) if chance() < 0.1 else (),
        )

    def some_resources(self) -> dict[str, int]:
        asked = {}
        if self.random.random() < 0.7:
            asked["CPU"] = self.random.choice((2500, 5000, ONE, 2 * ONE, 4 * ONE))
        if self.random.random() < 0.4:
            asked["GPU"] = self.random.choice((2500, 6000, ONE, ONE, 2 * ONE, 4 * ONE))
        if self.random.random() < 0.1:
            asked["robot"] = ONE
        return asked

    def begin(self) -> None:
        actor = self.some_actor("PLACED")
        if actor:
            incarnation, node = self.incarnation(actor)
            was = self.state(actor)
            caller = f"{self.random.getrandbits(64):016x}"
            order = self.control.begin(actor, incarnation, node, caller)
            assert (order is not None) <= (was == "PLACED")
            if order is not None:
                record = order.actor
                self.processes.append(
                    Placement(actor, incarnation, node, record.kind, record.caller_id)
                )

    def alive(self) -> None:
        actor = self.some_actor("STARTING")
        if actor:
            self.control.alive(actor, self.incarnation(actor)[0], 7)

    def failed(self) -> None:
        actor = self.some_actor("STARTING", "ALIVE", "STOPPING")
        if actor:
            self.control.failed(actor, self.incarnation(actor)[0], "raised", b"error")

    def kill(self) -> None:
        actor = self.some_actor("PENDING", "PLACED", "ALIVE")
        if actor:
            killed = self.control.kill(actor, "killed")
            assert killed.already_dead == (self.state(actor) in {"DEAD", None})
            assert killed.was_pending == (self.state(actor) in {"PENDING", "PLACED"})

    def reaped(self) -> None:
        if self.processes:
            process = self.random.choice(self.processes)
            if self.random.random() < 0.9:
                self.processes.remove(process)
            self.reap(process)

    def reap(self, process: Placement) -> Reaped:
        return self.control.reaped(process.actor_id, process.incarnation, process.node_id, "exit")

    def block(self) -> None:
        actor = self.some_actor("ALIVE", "STOPPING")
        if actor:
            self.control.block(actor, self.incarnation(actor)[0])

    def unblock(self) -> None:
        actor = self.some_actor("ALIVE", "STOPPING")
        if actor:
            incarnation, node = self.incarnation(actor)
            self.control.unblock(actor, incarnation)
            self.overcommitted.add(node)

    def sweep_unstarted(self) -> None:
        for actor_id in self.random.sample(self.actors, min(10, len(self.actors))):
            if self.state(actor_id) == "PLACED":
                self.client.zadd("ca:placed", {actor_id: 1})
        self.control.sweep_unstarted(30)

    # Holds

    def some_token(self) -> str:
        caller = self.random.choice([*self.callers, *self.callers, *self.ended[-3:], self.id(16)])
        return self.random.choice(
            (
                f"{caller}/p",
                f"{caller}/c{self.random.randint(1, 9)}:{self.random.choice(self.actors)}",
                f"{caller}/o{self.random.randint(1, 9)}.0",
                f"{self.callers.get(caller, caller)}/job",
            )
        )

    def hold(self) -> None:
        actor = self.some_actor("ALIVE", "PENDING")
        if actor:
            self.control.hold(actor, self.some_token())

    def move_hold(self) -> None:
        actor = self.some_actor("ALIVE", "STARTING")
        if actor:
            sources = [*sorted(self.control.holds(actor)), self.some_token()]
            self.control.move_hold(actor, self.random.choice(sources), self.some_token())

    def release_hold(self) -> None:
        actor = self.some_actor("ALIVE", "STARTING", "PENDING")
        if actor:
            sources = [*sorted(self.control.holds(actor)), self.some_token()]
            self.control.release_hold(actor, self.random.choice(sources))

    def end_all(self) -> None:
        """Take everything down, in the order of a cluster's end."""
        for caller in list(self.callers):
            self.run(lambda caller=caller: self.end(caller))  # type: ignore[misc]
        for actor in self.actors:
            self.control.kill(actor, "detached ones too")
        for group in self.now.groups.values():
            self.control.remove_group(group.group_id, "detached ones too")
        for process in self.processes:
            self.reap(process)
        for node_id in list(self.now.nodes):
            self.control.remove_node(node_id, "left")
        for caller in self.control.lingering_callers():
            self.control.end_caller(caller)
        for job in self.control.jobs():
            self.control.forget_job(job.job_id)


@pytest.mark.parametrize("seed", range(5))
def test_random_walks_keep_every_promise(control: Control, client: redis.Redis, seed: int) -> None:
    walk = Walk(control, client, seed)
    for start in (walk.register_driver, walk.register_node, walk.register_node):
        walk.run(start)
    for _ in range(STEPS):
        walk.step()
    seen = {record.state for record in walk.now.actors.values()}
    assert {"DEAD", "ALIVE", "PENDING"} & seen, "the walk went somewhere"
    walk.end_all()
    left = {key.decode() for key in client.scan_iter()}
    # Detached actors' records outlive their jobs for a while, with an end of their own.
    kept = {key for key in left if client.pttl(key) > 0}
    assert left - kept <= {"ca:actors"}
    assert walk.seen >= {"CREATED", "REMOVED"}
