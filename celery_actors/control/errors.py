"""What the records refuse, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from celery_actors.control.targets import Target

_PLURALS = {"CPU": "CPUs", "GPU": "GPUs"}


class InsufficientResources(ValueError):
    """No node could run it, even with nothing else running.

    ``asked`` and ``best`` map the kinds of resources to amounts (1/10000): what was asked
    for, and the most that any one node has.
    """

    def __init__(self, message: str, asked: Mapping[str, int], best: Mapping[str, int]) -> None:
        super().__init__(message)
        self.asked = dict(asked)
        self.best = dict(best)

    def __reduce__(self) -> tuple[type[InsufficientResources], tuple[object, ...]]:
        return type(self), (str(self), self.asked, self.best)


class NodeNameTaken(ValueError):
    """A live node has that name already."""


class NodeGone(RuntimeError):
    """The node has been removed (its lease was lost): its processes must end."""


class CallerGone(RuntimeError):
    """The calling process is not registered, or its lease was lost and it was ended."""


class GroupRemoved(ValueError):
    """The placement group has been removed, or was never there."""


def removed(group_id: str) -> GroupRemoved:
    """Return the error that says that a placement group is no more."""
    return GroupRemoved(
        f"placement group {group_id} was removed (or its job ended, or there never was one): "
        "nothing can run in it"
    )


class GroupNameTaken(ValueError):
    """Another placement group has that name in that namespace."""


def shortage(
    what: str,
    asked: Mapping[str, int],
    best: Mapping[str, int],
    cluster: Mapping[str, int],
    target: Target,
    nodes: Sequence[str],
    *,
    known: bool,
) -> InsufficientResources:
    """Return the error that says what is asked for and what there is.

    ``best`` and ``cluster`` are over the nodes that the request allows; ``known`` says
    whether there is any such node.
    """
    affinity = target.node if target.pinned else None
    message = _lack(what, asked, best, cluster, affinity)
    present = ", ".join(sorted(nodes))
    if not known and target.labels:
        rules = " and ".join(map(str, target.labels))
        where = f" that is {affinity}" if affinity else ""
        message = (
            f"{what} asks for a node with the labels {rules}{where}; the cluster has only nodes "
            f"without them: {present}"
        )
    elif not known:
        message = f"{what} asks for the node {affinity!r}; the cluster has only: {present}"
    elif message is None:
        together = ", ".join(_count(kind, asked[kind]) for kind in sorted(asked))
        message = (
            f"no single node has all that {what} asks for ({together}), though there is "
            f"enough of each by itself; the nodes: {present}"
        )
    return InsufficientResources(message, asked, best)


def _lack(
    what: str,
    asked: Mapping[str, int],
    best: Mapping[str, int],
    cluster: Mapping[str, int],
    affinity: str | None,
) -> str | None:
    for kind in sorted(asked, key=lambda name: (name != "GPU", name != "CPU", name)):
        most = best.get(kind, 0)
        if asked[kind] > most:
            where = f"the node {affinity}" if affinity else "the largest node"
            return (
                f"not enough {_PLURALS.get(kind, kind)}: {what} asks for "
                f"{_count(kind, asked[kind])}; {where} has {_amount(most)} "
                f"(cluster total {_amount(cluster.get(kind, 0))})"
            )
    return None


def _amount(units: int) -> str:
    return f"{units / 10_000:.4f}".rstrip("0").rstrip(".")


def _count(kind: str, units: int) -> str:
    noun = kind if units == 10_000 else _PLURALS.get(kind, kind)
    return f"{_amount(units)} {noun}"
