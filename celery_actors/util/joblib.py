"""joblib, and what is built upon it (scikit-learn), on the cluster's actors (as Ray's)."""

from __future__ import annotations

from typing import Any

__all__ = ["register_ray"]


def register_ray() -> None:
    """Register the cluster with joblib, under the name ``ray``.

    Raises:
        ImportError: joblib is not installed.

    Example:
        >>> register_ray()
        >>> with joblib.parallel_backend("ray"):
        ...     search.fit(x, y)
    """
    from joblib.parallel import register_parallel_backend

    register_parallel_backend("ray", _backend())


def _backend() -> type[Any]:
    # joblib is no dependency of ours: its classes are there only where it is.
    from joblib.parallel import AutoBatchingMixin, ThreadingBackend

    from celery_actors.api import cluster_resources, init, is_initialized
    from celery_actors.util.multiprocessing import Pool

    class ActorsBackend(AutoBatchingMixin, ThreadingBackend):  # type: ignore[misc]  # untyped bases
        """As joblib's threads, but each has an actor do its work."""

        uses_threads = False
        supports_sharedmem = False
        _pool: Pool | None = None

        def __init__(self, ray_remote_args: Any = None, **options: Any) -> None:
            super().__init__(**options)
            self._remote_args = ray_remote_args

        def effective_n_jobs(self, n_jobs: int | None) -> int:
            """Return how many jobs run at a time: -1 is one for each CPU of the cluster."""
            if not is_initialized():
                init()
            cpus = max(1, int(cluster_resources().get("CPU", 1)))
            if n_jobs is None:
                return 1
            return min(cpus, n_jobs) if n_jobs > 0 else max(1, cpus + 1 + n_jobs)

        def configure(
            self, n_jobs: int = 1, parallel: Any = None, ray_remote_args: Any = None, **options: Any
        ) -> int:
            """Note how many jobs there are to be, and the options of the actors."""
            if ray_remote_args is not None:
                self._remote_args = ray_remote_args
            return int(super().configure(n_jobs, parallel, **options))

        def _get_pool(self) -> Pool:
            if self._pool is None:
                self._pool = Pool(self._n_jobs, ray_remote_args=self._remote_args)
            return self._pool

    return ActorsBackend
