"""What a job's packages are stored in: one hash a job, of signed chunks."""

from __future__ import annotations

from typing import cast

from celery_actors.control.scripts import Scripts


class Packages:
    """Stores and reads the chunks of packages.  Their number is written last."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    def store(self, job_id: str, digest: str, index: int, chunk: bytes) -> bool:
        """See :meth:`Control.store_package`."""
        return bool(self._scripts.run("store_package", job_id, f"{digest}:{index}", chunk))

    def complete(self, job_id: str, digest: str, count: int) -> bool:
        """See :meth:`Control.complete_package`."""
        return bool(self._scripts.run("store_package", job_id, digest, count))

    def store_module(self, job_id: str, name: str, entry: bytes) -> bool:
        """See :meth:`Control.store_module`."""
        return bool(self._scripts.run("store_package", job_id, f"module:{name}", entry))

    def module(self, job_id: str, name: str) -> bytes | None:
        """See :meth:`Control.module`."""
        return cast("bytes | None", self._scripts.run("package", job_id, f"module:{name}"))

    def count(self, job_id: str, digest: str) -> int | None:
        """See :meth:`Control.package_chunks`."""
        count = cast("bytes | None", self._scripts.run("package", job_id, digest))
        return None if count is None else int(count)

    def chunk(self, job_id: str, digest: str, index: int) -> bytes | None:
        """See :meth:`Control.package_chunk`."""
        return cast("bytes | None", self._scripts.run("package", job_id, f"{digest}:{index}"))
