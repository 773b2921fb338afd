"""What is measured, and what is required of it: each requirement against one peer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """What has to hold.

    :ivar peer: whose figure ours is compared with: at least ``times`` as good.  Empty: ours alone
        is judged, by ``most`` or ``least``, in the workload's unit.
    :ivar aim: shown, but no failure where it isn't reached.
    """

    peer: str = ""
    times: float = 0.0
    most: float | None = None
    least: float | None = None
    aim: bool = False

    def text(self) -> str:
        """Say it in a few characters."""
        if self.most is not None:
            return f"≤ {self.most:g}"
        if self.least is not None:
            return f"≥ {self.least:g}"
        return f"{'aim ' if self.aim else ''}≥ {self.times:.2g}x {self.peer}"

    def reached(self, ours: float, others: dict[str, float], *, more_is_better: bool) -> bool:
        """Whether it holds; not where the peer has no figure."""
        if self.most is not None:
            return ours <= self.most
        if self.least is not None:
            return ours >= self.least
        other = others.get(self.peer)
        if other is None:
            return False
        return ratio_of(ours, other, more_is_better=more_is_better) >= self.times


def ratio_of(ours: float, other: float, *, more_is_better: bool) -> float:
    """How many times better ours is."""
    return ours / other if more_is_better else other / ours


@dataclass(frozen=True)
class Workload:
    """One line of the table."""

    title: str
    more_is_better: bool
    goals: tuple[Goal, ...] = ()
    full_only: bool = False


def _ray(times: float) -> Goal:
    return Goal("ray", times)


WORKLOADS = {
    "init": Workload("init, cold (private cluster)", False),
    "init_warm": Workload("init, cluster stands", False, (Goal(most=0.5),)),
    "first_actor": Workload("first actor ready", False),
    "next_actor": Workload("next actor ready", False, (_ray(8),)),
    "many_actors": Workload("300 actors at once", True, (_ray(8),)),
    "idle_memory": Workload("private memory of an idle actor", False, (Goal(most=12.0),)),
    "sync": Workload(
        "1:1 synchronous",
        True,
        (_ray(2), Goal("xoscar", 0.6), Goal("celery", 4), Goal("floor", 1 / 1.3, aim=True)),
    ),
    "sync_by_mailbox": Workload("1:1 synchronous, by RabbitMQ alone", True),
    "pipelined": Workload(
        "1:1 pipelined, 1,000 in flight",
        True,
        (_ray(10), Goal("xoscar", 4), Goal("celery", 80)),
    ),
    "eight_kb": Workload("8 KB array there and back, pipelined", True, (_ray(6),)),
    "one_to_four": Workload("1:4 pipelined", True, (_ray(6),)),
    "four_to_one": Workload("4:1 pipelined", True, (_ray(6),)),
    "four_to_four": Workload("4:4 pipelined", True, (_ray(6),)),
    "async_actor": Workload("asyncio actor, pipelined", True),
    "events": Workload("task events on, share of off", True, (Goal(least=0.8),)),
    "tasks_sync": Workload("tasks, synchronous", True),
    "tasks_pipelined": Workload("tasks, pipelined", True, (_ray(5),)),
    "tasks_burst": Workload("a burst of 5,000 tasks of no CPU", True, (_ray(5),)),
    "tasks_burst_share": Workload(
        "the same, share of what two executors do", True, (Goal(least=0.5),)
    ),
    "put_1kb": Workload("put 1 KB", False),
    "get_1kb": Workload("get 1 KB", False),
    "put_1mb": Workload("put 1 MB", False),
    "get_1mb": Workload("get 1 MB", False),
    "put_100mb": Workload("put 100 MB", False, (_ray(1),)),
    "get_100mb": Workload("get 100 MB", False, (_ray(1),)),
    "put_1gb": Workload("put 1 GB", False, full_only=True),
    "get_1gb": Workload("get 1 GB", False, full_only=True),
    "pass_ref": Workload("pass a ref of 100 MB to an actor", False, (_ray(1),)),
    "put_in_a_loop": Workload("put 100 MB in a loop", True, (_ray(1),)),
    "pass_after_puts": Workload("the same, then pass the last ref", False, (_ray(1),)),
    "latency": Workload("p99 at 50 % of the highest rate", False, full_only=True),
}
