"""The records of actors, from creation to the reaping of the process."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import cast

from celery_actors.control.answers import Answer, milliseconds, seconds
from celery_actors.control.errors import CallerGone, InsufficientResources, removed, shortage
from celery_actors.control.records import (
    RECORD_FIELDS,
    WHOLE,
    ActorKind,
    ActorRecord,
    ActorSpec,
    Creation,
    Killed,
    NamedActor,
    Placement,
    Reaped,
    StartOrder,
)
from celery_actors.control.scripts import Scripts
from celery_actors.control.states import ActorState
from celery_actors.control.targets import shape_text


class Actors:
    """Creates, starts, ends and lists actors."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    def create(self, spec: ActorSpec) -> Creation:
        """See :meth:`Control.create`."""
        answer = Answer(
            self._scripts.run(
                "create",
                spec.actor_id,
                spec.job_id,
                spec.caller_id,
                spec.kind,
                spec.class_name,
                int(spec.detached),
                _shape(spec),
                spec.blob or b"",
                int(spec.blob is not None),
                spec.name,
                spec.namespace,
                spec.max_restarts,
                spec.handle,
            )
        )
        if answer.get("existing"):
            return Creation(False, (), answer.get("existing"))
        if answer.flag("gone"):
            raise CallerGone(f"caller {spec.caller_id} is not registered or has been ended")
        if answer.get("removed"):
            raise removed(answer.get("removed"))
        if answer.get("short"):
            raise _shortage(spec, answer.get("short"))
        return Creation(answer.flag("placed"), answer.placements())

    def provide(self, actor_id: str, blob: bytes) -> Creation:
        """See :meth:`Control.provide`."""
        answer = Answer(self._scripts.run("provide", actor_id, blob))
        if answer.get("removed"):
            raise removed(answer.get("removed"))
        return Creation(answer.flag("placed"), answer.placements())

    def named(self, namespace: str, name: str) -> NamedActor | None:
        """See :meth:`Control.named_actor`."""
        found = self._scripts.run("named", namespace, name)
        return NamedActor(found[0].decode(), found[1]) if found else None

    def names(self) -> list[tuple[str, str]]:
        """See :meth:`Control.actor_names`."""
        return sorted(map(_namespace_and_name, cast("list[bytes]", self._scripts.run("names"))))

    def handle(self, actor_id: str) -> bytes | None:
        """See :meth:`Control.actor_handle`."""
        return cast("bytes | None", self._scripts.run("handle", actor_id))

    def read(self, actor_id: str) -> ActorRecord | None:
        """See :meth:`Control.actor`."""
        row = self._scripts.run("actor", actor_id)
        return _record(row) if row else None

    def all(self, job_id: str | None) -> list[ActorRecord]:
        """See :meth:`Control.actors`."""
        return [_record(row) for row in self._scripts.run("actors", job_id or "")]

    def begin(
        self, actor_id: str, incarnation: str, node_id: str, caller_id: str
    ) -> StartOrder | None:
        """See :meth:`Control.begin`."""
        answer = self._scripts.run("begin", actor_id, incarnation, node_id, caller_id)
        if not answer:
            return None
        row, blob, namespace, attempts, unknown = cast(
            "tuple[list[bytes | int], bytes, bytes, bytes, bytes]", answer
        )
        actor = _record(row)
        return StartOrder(
            actor,
            blob,
            actor.gpu_ids,
            namespace.decode(),
            json.loads(attempts or b"{}"),
            unknown == b"1",
        )

    def alive(self, actor_id: str, incarnation: str, pid: int) -> bool:
        """See :meth:`Control.alive`."""
        return bool(self._scripts.run("alive", actor_id, incarnation, pid))

    def failed(self, actor_id: str, incarnation: str, cause: str, error: bytes | None) -> bool:
        """See :meth:`Control.failed`."""
        return bool(self._scripts.run("failed", actor_id, incarnation, _plain(cause), error or b""))

    def kill(self, actor_id: str, cause: str, no_restart: bool) -> Killed:
        """See :meth:`Control.kill`."""
        answer = Answer(self._scripts.run("kill", actor_id, _plain(cause), int(no_restart)))
        return Killed(
            answer.placement("node"),
            answer.flag("was_pending"),
            answer.flag("already_dead"),
            answer.placements(),
        )

    def reaped(
        self,
        actor_id: str,
        incarnation: str,
        node_id: str,
        cause: str,
        interrupted: Sequence[str],
    ) -> Reaped:
        """See :meth:`Control.reaped`."""
        calls = json.dumps(list(interrupted))
        answer = Answer(
            self._scripts.run("reaped", actor_id, incarnation, node_id, _plain(cause), calls)
        )
        return Reaped(answer.flag("died_now"), answer.placements(), answer.flag("over"))

    def block(self, actor_id: str, incarnation: str) -> tuple[Placement, ...]:
        """See :meth:`Control.block`."""
        return Answer(self._scripts.run("block", actor_id, incarnation, 1)).placements()

    def unblock(self, actor_id: str, incarnation: str) -> None:
        """See :meth:`Control.unblock`."""
        self._scripts.run("block", actor_id, incarnation, 0)

    def sweep_unstarted(self, older_than: float) -> tuple[Placement, ...]:
        """See :meth:`Control.sweep_unstarted`."""
        return Answer(self._scripts.run("sweep_unstarted", milliseconds(older_than))).placements()

    def waiting(self) -> int:
        """See :meth:`Control.waiting`."""
        return cast(int, self._scripts.run("waiting"))


def _plain(cause: str) -> bytes:
    # A traceback's text may hold what UTF-8 has no bytes for; a death is recorded all the same.
    return cause.encode("utf-8", "backslashreplace")


def _shape(spec: ActorSpec) -> str:
    """Return what is asked for and where, the same text for the same request."""
    want = {kind: amount for kind, amount in spec.resources.items() if amount}
    for kind, amount in want.items():
        if amount < 0:
            raise ValueError(f"{spec.class_name}: {kind} is negative")
    gpus = want.get("GPU", 0)
    if gpus > WHOLE and gpus % WHOLE:
        raise ValueError(
            f"{spec.class_name}: {gpus / WHOLE:g} GPUs: more than one must be a whole number"
        )
    return shape_text(want, spec.target)


def _wanted(shape: str) -> dict[str, int]:
    parsed, _ = json.JSONDecoder().raw_decode(shape)
    return {kind: int(amount) for kind, amount in parsed["want"].items()}


def _shortage(spec: ActorSpec, short: Mapping[str, object]) -> InsufficientResources:
    noun = "the task" if spec.kind == "executor" else "the actor"
    return shortage(
        f"{noun} {spec.class_name}",
        {kind: amount for kind, amount in spec.resources.items() if amount},
        _numbers(short["best"]),
        _numbers(short["cluster"]),
        spec.target,
        cast("list[str]", short["names"]),
        known=bool(short["named"]),
    )


def _numbers(amounts: object) -> dict[str, int]:
    return {kind: int(amount) for kind, amount in cast("Mapping[str, float]", amounts).items()}


def _namespace_and_name(field: bytes) -> tuple[str, str]:
    """Decode what ``name_field`` in ``base.lua`` makes."""
    length, _, both = field.partition(b":")
    return both[: int(length)].decode(), both[int(length) :].decode()


def _record(row: Sequence[bytes | int]) -> ActorRecord:
    actor_id, *values, holds = row
    fields = dict(zip(RECORD_FIELDS, cast("list[bytes]", values), strict=True))
    gpus = fields["gpus"].decode()
    return ActorRecord(
        actor_id=cast(bytes, actor_id).decode(),
        state=cast(ActorState, fields["state"].decode()),
        kind=cast(ActorKind, fields["kind"].decode()),
        class_name=fields["class"].decode(),
        job_id=fields["job"].decode(),
        caller_id=fields["caller"].decode(),
        node_id=fields["node"].decode() or None,
        incarnation=fields["incarnation"].decode() or None,
        resources=_wanted(fields["shape"].decode()),
        gpu_ids=tuple(int(gpu) for gpu in gpus.split(",")) if gpus else (),
        cause=fields["cause"].decode(),
        error=fields["error"] or None,
        pid=int(fields["pid"]) if fields["pid"] else None,
        created_at=seconds(fields["created"]),
        state_since=seconds(fields["since"]),
        stopping=fields["stopping"] == b"1",
        detached=fields["detached"] == b"1",
        holds=cast(int, holds),
        name=fields["name"].decode(),
        namespace=fields["namespace"].decode(),
        restarts=int(fields["restarts"] or 0),
        max_restarts=int(fields["max_restarts"] or 0),
    )
