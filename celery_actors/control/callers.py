"""The records of callers (processes) and of their jobs."""

from __future__ import annotations

from typing import cast

from celery_actors.control.answers import Answer, milliseconds, seconds, texts
from celery_actors.control.errors import NodeGone
from celery_actors.control.records import EndedCaller, JobRecord
from celery_actors.control.scripts import Scripts


class Callers:
    """Registers, renews and ends callers."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    def register(
        self,
        caller_id: str,
        job_id: str,
        lease: float | None,
        node_id: str | None,
        driver: bool,
        namespace: str,
    ) -> None:
        """See :meth:`Control.register_caller`."""
        if lease is None and node_id is None:
            raise ValueError("a caller has a lease of its own or shares its node's")
        ended = "" if lease is None else milliseconds(lease)
        if not self._scripts.run(
            "register_caller", caller_id, job_id, node_id or "", ended, int(driver), namespace
        ):
            raise NodeGone(f"node {node_id} has been removed: its processes must end")

    def renew(self, caller_id: str, lease: float) -> bool:
        """See :meth:`Control.renew_caller`."""
        return bool(self._scripts.run("renew_caller", caller_id, milliseconds(lease)))

    def is_alive(self, caller_id: str) -> bool:
        """See :meth:`Control.caller_alive`."""
        return bool(self._scripts.run("caller_alive", caller_id))

    def end(self, caller_id: str) -> EndedCaller:
        """See :meth:`Control.end_caller`."""
        return _ended(self._scripts.run("end_caller", caller_id))

    def settle_calls(self, caller_id: str, actor_id: str) -> EndedCaller:
        """See :meth:`Control.settle_calls`."""
        return _ended(self._scripts.run("settle_calls", caller_id, actor_id))

    def lingering(self) -> list[str]:
        """See :meth:`Control.lingering_callers`."""
        return texts(self._scripts.run("lingering_callers"))


class Jobs:
    """What belongs to a job as a whole."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    def all(self) -> list[JobRecord]:
        """See :meth:`Control.jobs`."""
        rows = cast("list[tuple[bytes, bytes, bytes, bytes, int]]", self._scripts.run("jobs"))
        return [
            JobRecord(
                job_id.decode(),
                driver.decode(),
                seconds(began),
                seconds(ended) if ended else None,
                actors,
            )
            for job_id, driver, began, ended, actors in rows
        ]

    def actors(self, job_id: str) -> list[str]:
        """See :meth:`Control.job_actors`."""
        return texts(self._scripts.run("job_actors", job_id))

    def forget(self, job_id: str) -> None:
        """See :meth:`Control.forget_job`."""
        self._scripts.run("forget_job", job_id)

    def define(self, job_id: str, digest: str, blob: bytes) -> None:
        """See :meth:`Control.define`."""
        self._scripts.run("define", job_id, digest, blob)

    def definition(self, job_id: str, digest: str) -> bytes | None:
        """See :meth:`Control.definition`."""
        return cast("bytes | None", self._scripts.run("definition", job_id, digest))


def _ended(raw: bytes) -> EndedCaller:
    answer = Answer(raw)
    return EndedCaller(
        answer.ids("stopping"),
        answer.placements("stop"),
        answer.ids("cancelled"),
        answer.placements(),
    )
