"""What a job's processes leave for those who watch: their last calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from celery_actors.control.scripts import Scripts

__all__ = ["MOST_CALLS_KEPT", "Observations"]

MOST_CALLS_KEPT = 5000


class Observations:
    """Kept with the job's records, and gone with them."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    def keep_calls(self, job_id: str, rows: Sequence[str]) -> None:
        """See :meth:`Control.keep_calls`."""
        self._scripts.run("keep_calls", job_id, MOST_CALLS_KEPT, *rows)

    def kept_calls(self, job_id: str) -> list[bytes]:
        """See :meth:`Control.kept_calls`."""
        return cast("list[bytes]", self._scripts.run("kept_calls", job_id))
