"""Clusters begun by hand: `celery-actors start` keeps them up between programs.

One record a begun part (a head, or a node that joined a cluster elsewhere) stands in the user's own
state directory; a record whose session directory nobody holds is of a part that is gone.
"""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from celery_actors.local.address import ClusterAddress
from celery_actors.local.errors import LocalClusterError
from celery_actors.local.node_options import NodeOptions
from celery_actors.local.private import PrivateCluster, Progress, start_guardian
from celery_actors.local.session import (
    create_session,
    exclusively,
    is_held,
    remove_session,
    user_state_dir,
    write_private,
)
from celery_actors.local.supervision import node_program, write_configuration
from celery_actors.local.supervisor_client import ProgramState, program_states

_STOP_SECONDS = 20.0
_NODE_START_SECONDS = 20.0
_HEAD, _NODE = "head", "node"


@dataclass(frozen=True, slots=True)
class BegunPart:
    """A head (servers and a node worker) or a node, begun on this machine by this user."""

    kind: str
    address: ClusterAddress
    session_dir: Path
    guardian_pid: int

    @property
    def is_head(self) -> bool:
        """Whether this part runs the servers."""
        return self.kind == _HEAD

    @property
    def alive(self) -> bool:
        """Whether its guardian still holds the session directory."""
        return is_held(self.session_dir)

    def programs(self) -> dict[str, ProgramState]:
        """Its programs as supervisord sees them."""
        return program_states(self.session_dir)


def start_head(
    node: NodeOptions | None = None, *, with_node: bool = True, progress: Progress | None = None
) -> BegunPart:
    """Start servers and a node worker that stay up until `stop`.

    :raises LocalClusterError: one begun earlier is still up, or a server did not start.
    """
    state = user_state_dir()
    with exclusively(state / "lock"):
        running = _find_head(_records(state))
        if running is not None:
            raise LocalClusterError(
                f"A cluster begun earlier is up (session directory {running.session_dir}). Use it, "
                "or end it with `celery-actors stop`."
            )
        cluster = PrivateCluster.start(node, with_node=with_node, progress=progress, lifeline=False)
        part = BegunPart(_HEAD, cluster.address, cluster.session_dir, cluster.guardian_pid)
        try:
            _record(state, part)
        except BaseException:
            cluster.stop()
            raise
    return part


def start_node(address: ClusterAddress, node: NodeOptions | None = None) -> BegunPart:
    """Start a node worker here that joins the cluster at the address, under its own supervisord.

    :raises LocalClusterError: its supervisor did not start.
    """
    state = user_state_dir()
    with exclusively(state / "lock"):
        session, lock = create_session()
        try:
            # The node finds the key where every session has it, also when the original goes away.
            key = address.key_file.read_text(encoding="ascii")
            write_private(session / "key", key)
            joined = ClusterAddress(
                address.broker_url, address.result_backend, session / "key", session
            )
            write_configuration(session, [node_program((node or NodeOptions()).worker_argv())])
            guardian, _ = start_guardian(session, lock, joined.environment(), lifeline=False)
        except BaseException:
            remove_session(session)
            raise
        finally:
            os.close(lock)
        part = BegunPart(_NODE, joined, session, guardian.pid)
        _record(state, part)
    deadline = time.monotonic() + _NODE_START_SECONDS
    while not part.programs():
        if guardian.poll() is not None or time.monotonic() > deadline:
            raise LocalClusterError("the node's supervisor did not start")
        time.sleep(0.05)  # bounded polling of an outside process
    return part


def discover() -> ClusterAddress | None:
    """The address of a cluster begun here with `celery-actors start` and alive, else None."""
    try:
        head = _find_head(_records(user_state_dir()))
    except OSError:
        # A state directory that is not ours alone vouches for nothing.
        return None
    return head.address if head is not None else None


def status() -> list[BegunPart]:
    """What was begun here and is alive, the head first."""
    parts = [part for part in _records(user_state_dir()) if part.alive]
    return sorted(parts, key=lambda part: not part.is_head)


def stop() -> list[BegunPart]:
    """End all that was begun here, nodes before the head; returns what was alive.

    :raises LocalClusterError: a guardian did not end.
    """
    state = user_state_dir()
    with exclusively(state / "lock"):
        alive = sorted(
            (part for part in _records(state) if part.alive), key=lambda part: part.is_head
        )
        for part in alive:
            _stop_part(part)
        for path in state.glob("*.json"):
            path.unlink(missing_ok=True)
    return alive


def _stop_part(part: BegunPart) -> None:
    # Held means that the guardian lives, so that its pid is still its own.
    with suppress(ProcessLookupError):  # it ended between the look and the signal
        os.kill(part.guardian_pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    while part.alive:
        if time.monotonic() > deadline:
            raise LocalClusterError(
                f"the cluster in {part.session_dir} did not end within {_STOP_SECONDS:.0f} s; its "
                f"guardian is process {part.guardian_pid}"
            )
        time.sleep(0.02)  # bounded polling of an outside process
    remove_session(part.session_dir)


def _find_head(parts: list[BegunPart]) -> BegunPart | None:
    return next((part for part in parts if part.is_head and part.alive), None)


def _record(state: Path, part: BegunPart) -> None:
    record = {
        "kind": part.kind,
        "broker_url": part.address.broker_url,
        "result_backend": part.address.result_backend,
        "key_file": str(part.address.key_file),
        "session_dir": str(part.session_dir),
        "guardian_pid": part.guardian_pid,
    }
    path = state / f"{part.session_dir.name}.json"
    aside = path.with_suffix(".part")
    write_private(aside, json.dumps(record))
    aside.rename(path)


def _records(state: Path) -> list[BegunPart]:
    parts = []
    for path in sorted(state.glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:  # a stop at the same time
            continue
        session = Path(record["session_dir"])
        address = ClusterAddress(
            record["broker_url"], record["result_backend"], Path(record["key_file"]), session
        )
        parts.append(BegunPart(record["kind"], address, session, int(record["guardian_pid"])))
    return parts
