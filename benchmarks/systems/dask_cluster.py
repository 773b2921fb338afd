"""Dask's actors: on the workers of a local cluster, called over its own sockets."""

from __future__ import annotations

from typing import Any

import distributed

from systems.base import WAIT_SECONDS, FuturePeer

WORKERS = 4


class Counter:
    """A counter."""

    def __init__(self) -> None:
        self.value = 0

    def increment(self) -> int:
        """Count."""
        self.value += 1
        return self.value

    def echo(self, value: Any) -> Any:
        """Return what came."""
        return value


def successor(number: int) -> int:
    """Return the next number."""
    return number + 1


class Dask(FuturePeer):
    """Four workers of one thread each."""

    workloads = ("sync", "pipelined", "eight_kb", "one_to_four", "tasks_sync", "tasks_pipelined")
    ordered = False  # calls that are under way at once take connections of their own

    def __init__(self) -> None:
        self._cluster: Any = None
        self._client: Any = None

    def start(self) -> None:
        """Start scheduler and workers, without the dashboard."""
        self._cluster = distributed.LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, processes=True, dashboard_address=None
        )
        self._client = distributed.Client(self._cluster)
        self._client.wait_for_workers(WORKERS)

    def create(self, kind: str = "counter") -> Any:
        """Create an actor on some worker."""
        return self._client.submit(Counter, actor=True, pure=False).result(WAIT_SECONDS)

    def submit(self, target: Any, method: str, *arguments: Any) -> Any:
        """Call an actor's method, or the task where ``target`` is None."""
        if target is None:
            return self._client.submit(successor, *arguments, pure=False)
        return getattr(target, method)(*arguments)

    def get(self, ref: Any) -> Any:
        """Wait for one value."""
        return ref.result(timeout=WAIT_SECONDS)

    def get_all(self, refs: list[Any]) -> list[Any]:
        """Gather what tasks return in one call; actors' futures one by one."""
        if refs and isinstance(refs[0], distributed.Future):
            values: list[Any] = self._client.gather(refs)
            return values
        return super().get_all(refs)

    def announce(self) -> dict[str, Any]:
        """Return the version."""
        return {"version": distributed.__version__}

    def stop(self) -> None:
        """End the cluster."""
        if self._client is not None:
            self._client.close()
        if self._cluster is not None:
            self._cluster.close()
