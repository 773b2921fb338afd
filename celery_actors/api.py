"""The functions of the package: thin, over the process's client."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar, overload

from celery_actors import serialization
from celery_actors.client.cancelling import cancel as cancel_call
from celery_actors.client.creation import kill_actor
from celery_actors.client.current import require_process
from celery_actors.control import amounts
from celery_actors.generators import ObjectRefGenerator
from celery_actors.handle import ActorHandle, ActorProxy, actor_id_of, weak_handle
from celery_actors.ids import mailbox_name
from celery_actors.refs import ObjectRef, process_for
from celery_actors.session import init, is_initialized, shutdown
from celery_actors.worker.context import current_assignment

if TYPE_CHECKING:
    from celery_actors.client.process import Process

__all__ = [
    "available_resources",
    "cancel",
    "cluster_resources",
    "get",
    "get_actor",
    "get_gpu_ids",
    "init",
    "is_initialized",
    "kill",
    "mailbox_of",
    "nodes",
    "put",
    "shutdown",
    "wait",
]

T = TypeVar("T")


@overload
def get(refs: ObjectRef[T], *, timeout: float | None = None) -> T: ...
@overload
def get(refs: Sequence[ObjectRef[T]], *, timeout: float | None = None) -> list[T]: ...
def get(refs: Any, *, timeout: float | None = None) -> Any:
    """Return the value of a ref, or the values of a list of refs in its order.

    :param timeout: seconds to wait at most; 0 only looks; ``None`` waits for ever.
    :raises TaskError: the call raised (also an instance of the user's exception class); of
        a list, the first that fails ends the wait.
    :raises ActorDiedError: the actor died before it finished the call.
    :raises GetTimeoutError: not all values were there in time.
    :raises ObjectLostError: a value is no longer stored.
    :raises TypeError: something else than refs was given.

    Example::

        get([counter.increment.remote() for _ in range(3)])   # [1, 2, 3]
    """
    if timeout is not None and timeout < 0:
        raise ValueError(f"timeout must not be negative, got {timeout}")
    if isinstance(refs, ObjectRef):
        value: Any = process_for((refs,)).values.get([refs.entry], timeout)[0]
        return value
    if not isinstance(refs, (list, tuple)):
        raise TypeError(f"get() takes an ObjectRef or a list of them, not {refs!r:.100}")
    for ref in refs:
        if not isinstance(ref, ObjectRef):
            raise TypeError(f"get() takes ObjectRefs; the list holds {ref!r:.100}")
    return process_for(refs).values.get([ref.entry for ref in refs], timeout)


def put(value: T) -> ObjectRef[T]:
    """Store a value in the cluster; returns a ref to it.

    Values of more than 64 KB lie in the node's shared memory, numpy arrays read from there
    without a copy.

    :raises SerializationError: the value can't be pickled; the message says what and where.
    :raises TypeError: the value is a ref already.
    """
    if isinstance(value, ObjectRef):
        raise TypeError("put() of an ObjectRef makes no sense: the ref can be passed as it is")
    process = require_process()
    dumped = serialization.dumps(value, lambda: "the value given to put()")
    return ObjectRef(process.put(dumped))


def wait(
    refs: Sequence[ObjectRef[T]],
    *,
    num_returns: int = 1,
    timeout: float | None = None,
    fetch_local: bool = True,
) -> tuple[list[ObjectRef[T]], list[ObjectRef[T]]]:
    """Wait until ``num_returns`` of the refs are ready.

    Generators may stand among them: each is ready when ``next()`` would not wait.

    :param timeout: seconds to wait at most; 0 only looks; ``None`` waits for ever.
    :param fetch_local: accepted for Ray's programs; values are fetched by :func:`get`.
    :returns: the ready ones (at most ``num_returns``) and the rest, each in the order given.
    :raises TypeError: a bare ref, or something else than refs, was given.
    :raises ValueError: refs repeat, or ``num_returns`` is not between 1 and their number.
    """
    del fetch_local
    if isinstance(refs, ObjectRef):
        raise TypeError("wait() takes a list of ObjectRefs, not a single one: use wait([ref])")
    if not isinstance(refs, (list, tuple)):
        raise TypeError(f"wait() takes a list of ObjectRefs, not {refs!r:.100}")
    for ref in refs:
        if not isinstance(ref, (ObjectRef, ObjectRefGenerator)):
            raise TypeError(f"wait() takes ObjectRefs; the list holds {ref!r:.100}")
    if timeout is not None and timeout < 0:
        raise ValueError(f"timeout must not be negative, got {timeout}")
    if not refs:
        return [], []
    if len(set(refs)) != len(refs):
        raise ValueError("wait() needs different refs: the list holds one twice")
    if not 0 < num_returns <= len(refs):
        raise ValueError(
            f"num_returns must be between 1 and the number of refs ({len(refs)}), not {num_returns}"
        )
    process = process_for([ref for ref in refs if isinstance(ref, ObjectRef)])
    if any(isinstance(ref, ObjectRefGenerator) for ref in refs):
        ready = _wait_for_any_kind(process, refs, num_returns, timeout)
    else:
        process.values.wait_for([ref.entry for ref in refs], num_returns, timeout)
        ready = [ref for ref in refs if not ref.entry.pending][:num_returns]
        for ref in ready:
            ref.entry.refuse_if_ended()
    chosen = set(ready)
    return ready, [ref for ref in refs if ref not in chosen]


def _wait_for_any_kind(
    process: Process, refs: Sequence[Any], num_returns: int, timeout: float | None
) -> list[Any]:
    """Wait for refs and generators; these are ready when the next value, or the end, is there."""
    deadline = None if timeout is None else monotonic() + timeout
    while True:
        awaited = {
            ref: ref.stream.awaited()
            if isinstance(ref, ObjectRefGenerator)
            else [ref.entry] * ref.entry.pending
            for ref in refs
        }
        ready = [ref for ref, entries in awaited.items() if not entries]
        left = None if deadline is None else max(0.0, deadline - monotonic())
        if len(ready) >= num_returns or left == 0:
            return ready[:num_returns]
        pending = [entry for entries in awaited.values() for entry in entries]
        process.values.wait_for(pending, 1, left)


def kill(actor: ActorHandle[Any] | ActorProxy[Any], *, no_restart: bool = True) -> None:
    """Kill an actor at once: its process gets SIGKILL, its unfinished calls fail.

    :param no_restart: False: one with restarts left (``max_restarts``) is restarted, and
        calls that had not started run there.  This does not wait for its process to end: calls
        may finish, or start, until it has.
    :raises TypeError: something else than a handle was given.
    """
    actor_id = actor_id_of(actor)
    process = require_process(actor_id)
    process.refuse_former(actor_id)
    process.flush()
    kill_actor(process, actor_id, "it was killed with kill()", no_restart)


def get_actor(name: str, namespace: str | None = None) -> ActorHandle[Any]:
    """Return a handle to the living actor of that name.

    The handle is weak: it does not keep the actor alive (as Ray's).

    :param namespace: default: that of ``init()``.
    :raises ValueError: there is none.

    Example::

        Counter.options(name="visits", lifetime="detached").remote()
        ray.get(ray.get_actor("visits").increment.remote())
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"get_actor() takes the name of an actor, not {name!r}")
    process = require_process()
    where = process.namespace if namespace is None else namespace
    found = process.control.named_actor(where, name)
    if found is None:
        raise ValueError(
            f"no living actor is named {name!r} in namespace {where!r}: names are seen only in "
            "their namespace (init(namespace=…)), and are free again when their actor has ended"
        )
    return weak_handle(process, bytes.fromhex(found.actor_id), found.handle)


def cancel(
    ref: ObjectRef[Any] | ObjectRefGenerator[Any], *, force: bool = False, recursive: bool = True
) -> None:
    """Cancel the call that produces ``ref``; does nothing if it is over.

    What waits is not run; a running ``async def`` method is cancelled; in a running plain
    method ``get_runtime_context().is_canceled()`` becomes true; a running task is
    interrupted (KeyboardInterrupt).  Getting the ref raises ``TaskCancelledError``.

    :param force: kill the process of a running task; its ref raises ``WorkerCrashedError``.
    :param recursive: cancel also what the call has called.
    :raises TypeError: ``ref`` is neither a ref nor a generator.
    :raises ValueError: ``force`` of an actor's call.
    """
    if isinstance(ref, ObjectRefGenerator):
        entry = ref.end
    elif isinstance(ref, ObjectRef):
        entry = ref.entry
    else:
        raise TypeError(f"cancel() takes an ObjectRef, not {ref!r:.100}")
    entry.refuse_if_ended()
    cancel_call(require_process(), entry, force, recursive)


def mailbox_of(actor: ActorHandle[Any] | ActorProxy[Any]) -> str:
    """Return the name of the AMQP queue that is an actor's mailbox.

    A plain Celery client calls the actor through it::

        app.send_task("Counter.increment", queue=mailbox_of(counter)).get()

    :raises TypeError: something else than a handle was given.
    """
    return mailbox_name(actor_id_of(actor))


def get_gpu_ids() -> list[int]:
    """Return the ids of the GPUs assigned to this actor or task, e.g. ``[2, 5, 6]``.

    A driver has none (as Ray's ``get_gpu_ids``, which returns ints here always).
    """
    return list(current_assignment().gpu_ids)


def nodes() -> list[dict[str, Any]]:
    """Return the live nodes, in the form of Ray's ``nodes()``."""
    return [
        {
            "NodeID": node.node_id,
            "Alive": True,
            "alive": True,
            "NodeName": node.name,
            "NodeManagerAddress": node.address,
            "NodeManagerHostname": node.host,
            "Resources": amounts(node.resources),
            "Available": amounts(node.available),
            "Labels": node.shown_labels,
        }
        for node in require_process().control.nodes()
    ]


def cluster_resources() -> dict[str, float]:
    """Return the resources of all live nodes together, by name."""
    return _sum([node.resources for node in require_process().control.nodes()])


def available_resources() -> dict[str, float]:
    """Return what is free now of the resources of all live nodes, by name."""
    return _sum([node.available for node in require_process().control.nodes()])


def _sum(parts: list[Any]) -> dict[str, float]:
    total: dict[str, int] = {}
    for part in parts:
        for name, amount in part.items():
            total[name] = total.get(name, 0) + amount
    return amounts({name: max(0, amount) for name, amount in total.items()})
