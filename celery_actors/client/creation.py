"""Creating and killing actors: the record, the mailbox, the order to the node."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import redis

from celery_actors.client.holds import Hold
from celery_actors.client.mailbox import Mailbox
from celery_actors.client.objects import Entry
from celery_actors.client.outbox import PendingCall
from celery_actors.control import (
    ActorSpec,
    GroupRemoved,
    Killed,
    Placement,
)
from celery_actors.control import InsufficientResources as Shortage
from celery_actors.exceptions import (
    ActorDiedError,
    ActorPlacementGroupRemoved,
    ActorsError,
    ActorUnschedulableError,
    ConnectionFailed,
    InsufficientResources,
    TaskPlacementGroupRemoved,
    TaskUnschedulableError,
)
from celery_actors.ids import mailbox_name, node_queue_name
from celery_actors.protocol.orders import Order, OrderKind
from celery_actors.store.express import sweep_express
from celery_actors.store.outage import is_outage

if TYPE_CHECKING:
    from celery_actors.client.process import Process

__all__ = [
    "abandon_actor",
    "begin_actor",
    "create_actor",
    "delete_mailboxes",
    "end_job",
    "kill_actor",
    "let_calls_go",
    "order_kills",
    "order_starts",
    "own_actor",
    "provide_when_ready",
    "remove_lost_node",
]

logger = logging.getLogger(__name__)


def create_actor(process: Process, spec: ActorSpec) -> str | None:
    """Create an actor's record and mailbox, and tell the node on which it was placed.

    The record is written first: an order that is lost on the way is made up for, since
    the node reads with each renewal of its lease what it has not begun.

    :returns: the id of the actor that has the name already; then nothing was created.
    :raises InsufficientResources: no node is large enough.
    :raises ActorUnschedulableError, TaskUnschedulableError: the one node for it is not there,
        or too small.
    :raises ActorPlacementGroupRemoved, TaskPlacementGroupRemoved: so was the group for it.
    """
    is_task = spec.kind == "executor"
    try:
        creation = process.control.create(spec)
    except GroupRemoved as error:
        gone = TaskPlacementGroupRemoved if is_task else ActorPlacementGroupRemoved
        raise gone(str(error)) from error
    except Shortage as error:
        if not spec.target.pinned:
            raise InsufficientResources(str(error), error.asked, error.best) from error
        kind = TaskUnschedulableError if is_task else ActorUnschedulableError
        raise kind(str(error)) from error
    if creation.existing is not None:
        return creation.existing
    queue = mailbox_name(bytes.fromhex(spec.actor_id))
    process.publish(lambda mailbox: mailbox.declare(queue))
    order_starts(process, creation.placements)
    return None


def begin_actor(
    process: Process,
    actor: bytes,
    kept: Sequence[Any],
    carried: Iterable[bytes],
    class_name: str,
    restarts: bool,
    private: bool,
) -> int:
    """Make the outbox of an actor that is about to be created; calls wait in it.

    :param kept: what the constructor's arguments keep alive until it has run, or, where it
        may run again, until the actor is dead.
    :param carried: actors whose handles are inside these arguments.
    :param class_name: for those who ask what this process waits for.
    :param private: nobody else finds it, by a name.
    :returns: the constructor's sequence: it is the creator's first call to the actor.
    """
    with process.lock:
        sequence = process.next_sequence()
        box = process.outbox(actor)
        if restarts and kept:
            process.kept_for_restarts[actor] = kept
        box.ready, box.private = False, private
        box.last_sequence = sequence
        box.constructing = PendingCall(
            task=sequence,
            method=f"{class_name}.__init__".encode(),
            payload=b"",
            entries=(),
            kept=kept,
            carried=tuple(carried),
            sequence=sequence,
        )
        return sequence


def abandon_actor(process: Process, actor: bytes) -> None:
    """Forget an actor that was not created after all."""
    with process.lock:
        box = process.outboxes.pop(actor, None)
        if box is not None and box.constructing is not None:
            process.housekeeping.calls_failed(box, [box.constructing])
        process.kept_for_restarts.pop(actor, None)


def own_actor(process: Process, actor: bytes) -> Hold:
    """Return this process's hold on an actor that it has created."""
    with process.lock:
        return process.holds.add(actor, f"{process.caller.hex()}/p")


def provide_when_ready(
    process: Process, actor: bytes, arguments: Sequence[Entry], encode: Callable[[], bytes]
) -> None:
    """Let an actor begin once its ref arguments are there: now, or later in the background.

    :param encode: makes its creation, with the values of the arguments.
    """
    with process.lock:
        box = process.outbox(actor)

    def go() -> None:
        try:
            process.sender.settle_argument_errors(arguments)
            placements = process.control.provide(actor.hex(), encode()).placements
            order_starts(process, placements)
        except GroupRemoved as error:
            kill_actor(process, actor, str(error))
        except (ActorsError, ValueError, OSError, redis.RedisError) as error:
            if is_outage(error):
                process.housekeeping.try_again(go)
                return
            died = ActorDiedError(f"actor {actor.hex()} could not be created: {error}", actor.hex())
            died.__cause__ = error
            with process.lock:
                process.housekeeping.calls_failed(box, box.fail(died))
            _give_up(process, actor, str(error))
        else:
            let_calls_go(process, actor)

    with process.lock:
        process.objects.when_settled(arguments, go)
    process.run_after()


def _give_up(process: Process, actor: bytes, why: str) -> None:
    """Make an actor dead that can't begin: others may have handles to it, and wait."""
    try:
        kill_actor(process, actor, f"it could not be created: {why}")
    except (ActorsError, redis.RedisError) as error:
        if not is_outage(error):
            logger.warning("actor %s can't be made dead: %s", actor.hex(), error)
            return
        process.housekeeping.try_again(lambda: _give_up(process, actor, why))


def let_calls_go(process: Process, actor: bytes) -> None:
    """The actor asks for its resources: calls to it may be sent."""
    with process.lock:
        box = process.outbox(actor)
        box.ready = True
    process.sender.unblock(box)


def order_starts(process: Process, placements: Iterable[Placement]) -> None:
    """Tell the nodes what was placed on them."""
    for placement in placements:
        order = Order(OrderKind.START, placement.actor_id, placement.incarnation)
        process.order(node_queue_name(placement.node_id), order)


def order_kills(process: Process, placements: Iterable[Placement]) -> None:
    """Tell the nodes which processes must end."""
    for placement in placements:
        order = Order(OrderKind.KILL, placement.actor_id, placement.incarnation)
        process.order(node_queue_name(placement.node_id), order)


def kill_actor(process: Process, actor: bytes, cause: str, no_restart: bool = True) -> Killed:
    """Make an actor dead at once and have its process killed.

    Its node deletes the mailbox when it has reaped the process; without one, it goes now.

    :param no_restart: False: only the process is killed, if the actor may be restarted.
    """
    killed = process.control.kill(actor.hex(), cause, no_restart)
    if killed.node is not None:
        order = Order(OrderKind.KILL, killed.node.actor_id, killed.node.incarnation)
        process.order(node_queue_name(killed.node.node_id), order)
    elif killed.was_pending:
        process.publish(lambda mailbox: mailbox.delete(mailbox_name(actor)))
    order_starts(process, killed.placements)
    return killed


def end_job(process: Process, patience: float = 15.0) -> None:
    """End this driver's job: its actors are killed, its records and values deleted.

    Waits until the nodes have reaped the processes, so that nothing is left behind.
    """
    process.flush()
    process.sender.leave_ring()
    process.sender.express.settle()
    process.closed = True  # the background thread begins nothing more
    with process.lock:
        entries = process.objects.entries.values()
        awaited = [entry.oid for entry in entries if entry.foreign and entry.pending]
    process.end_objects()  # who waits is told now, not once all processes are reaped
    ended = process.control.end_caller(process.caller.hex())
    try:
        order_kills(process, ended.stop)
        for actor_id in ended.stopping:
            process.order(mailbox_name(bytes.fromhex(actor_id)), Order(OrderKind.STOP, actor_id))
        order_starts(process, ended.placements)
        process.publish(lambda mailbox: delete_mailboxes(mailbox, ended.cancelled))
    except ConnectionFailed as error:
        # Every node learns from the records, with its next renewal, whom to kill.
        logger.debug("the job's end was not announced: %s", error)
    deadline = monotonic() + patience
    while _unreaped(process):
        if monotonic() > deadline:
            logger.warning(
                "processes of job %s were not reaped within %g s (is their node worker alive?)",
                process.job_id,
                patience,
            )
            break
        sleep(0.01)  # the nodes reap; bounded by the deadline above
    process.results.stop_waiting(awaited, process.caller.hex())
    process.results.forget_caller(process.caller.hex())
    records = process.control.actors(process.job_id)
    process.results.delete_cursors([bytes.fromhex(r.actor_id) for r in records if not r.detached])
    process.control.forget_job(process.job_id)


def _unreaped(process: Process) -> list[str]:
    """Return the actors of this job that are to end with it and have not yet."""
    actors = process.control.job_actors(process.job_id)
    records = [process.control.actor(actor) for actor in actors]
    return [record.actor_id for record in records if record is not None and not record.detached]


def remove_lost_node(process: Process, node_id: str) -> None:
    """Bury a node whose lease has ended: its actors are dead, their mailboxes go.

    What else follows (other actors that lost their holders) the next node to join does.
    """
    cause = "its node was lost (it did not renew its lease)"
    removal = process.control.remove_node(node_id, cause)
    process.publish(lambda mailbox: delete_mailboxes(mailbox, removal.dead))
    process.publish(lambda mailbox: mailbox.delete(node_queue_name(node_id)))
    sweep_express(Path(process.settings.shared_memory_dir))  # it may have been on this machine
    order_starts(process, removal.placements)


def delete_mailboxes(mailbox: Mailbox, actor_ids: Iterable[str]) -> None:
    """Delete the mailboxes of dead actors, and wait until they are gone."""
    for actor_id in actor_ids:
        mailbox.delete(mailbox_name(bytes.fromhex(actor_id)))
    mailbox.barrier()
