"""What a job's processes leave for those who watch: their last calls, their metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from celery_actors.control.records import JobMetrics
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

    def add_metrics(self, caller_id: str, number: int, what: str) -> None:
        """See :meth:`Control.add_metrics`."""
        self._scripts.run("add_metrics", caller_id, number, what)

    def metrics(self) -> list[JobMetrics]:
        """See :meth:`Control.metrics`."""
        rows = cast(
            "list[tuple[bytes, list[bytes], list[tuple[bytes, list[bytes]]]]]",
            self._scripts.run("metrics"),
        )
        return [
            JobMetrics(
                job.decode(), _mapping(sums), {who.decode(): _mapping(of) for who, of in gauges}
            )
            for job, sums, gauges in rows
        ]


def _mapping(flat: Sequence[bytes]) -> dict[str, str]:
    texts = [item.decode() for item in flat]
    return dict(zip(texts[::2], texts[1::2], strict=True))
