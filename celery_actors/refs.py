"""ObjectRef: what a call returns at once, in place of the value to come."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from celery_actors import serialization
from celery_actors.client.current import current_process, require_process
from celery_actors.client.objects import Entry, ObjectState
from celery_actors.ids import celery_id, item_of_sequence, split_object_id

if TYPE_CHECKING:
    import asyncio

    from celery_actors.client.process import Process

__all__ = ["ObjectRef", "process_for", "task_id_of"]

T_co = TypeVar("T_co", covariant=True)


class ObjectRef(Generic[T_co]):
    """A reference to a value that is, or will be, stored in the cluster.

    Returned by ``.remote()`` and :func:`celery_actors.put`.  Refs compare and hash by
    id, pickle into arguments and results, can be awaited, and keep the value stored
    while any of them lives.

    Example::

        ref = counter.increment.remote()
        celery_actors.get(ref)      # or: await ref
    """

    __slots__ = ("__weakref__", "_entry")

    def __init__(self, entry: Entry) -> None:
        # The entry's reference count was raised for this ref by whoever made it.
        self._entry = entry

    @property
    def entry(self) -> Entry:
        """This process's record of the object (internal)."""
        return self._entry

    def binary(self) -> bytes:
        """Return the object id (18 bytes)."""
        return self._entry.oid

    def hex(self) -> str:
        """Return the object id in hex."""
        return self._entry.oid.hex()

    def is_nil(self) -> bool:
        """Return False: there is an object (as Ray's ids have it)."""
        return False

    def task_id(self) -> str:
        """Return the id of the call that produces the object, as Celery writes it.

        ``celery.result.AsyncResult(ref.task_id())`` reads the same result.
        """
        return task_id_of(self._entry)

    @classmethod
    def from_hex(cls, text: str) -> ObjectRef[Any]:
        """Return a ref to the object with that id.

        :raises ValueError: the text is no object id.
        """
        try:
            oid = bytes.fromhex(text)
        except ValueError:
            raise ValueError(f"{text!r} is no object id: 36 hex digits expected") from None
        return cls.from_binary(oid)

    @classmethod
    def from_binary(cls, oid: bytes) -> ObjectRef[Any]:
        """Return a ref to the object with that id.

        :raises ValueError: these bytes are no object id.
        """
        split_object_id_checked(oid)
        ref = _ref_from_id(oid)
        require_process().keep_borrowed()
        return ref

    def future(self) -> Future[T_co]:
        """Return a :class:`concurrent.futures.Future` of the value."""
        return process_for([self]).values.future(self._entry)

    def as_future(self, _internal: bool = False) -> asyncio.Future[T_co]:
        """Return a future of the running event loop: Ray's older name, use ``await ref``."""
        import asyncio

        return asyncio.wrap_future(self.future())

    def __await__(self) -> Generator[Any, None, T_co]:
        import asyncio

        return asyncio.wrap_future(self.future()).__await__()

    def __hash__(self) -> int:
        return hash(self._entry.oid)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ObjectRef):
            return NotImplemented
        return self._entry.oid == other._entry.oid

    def __repr__(self) -> str:
        return f"ObjectRef({self.hex()})"

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        record = serialization.outgoing()
        if record is None:
            self._entry.pinned = True  # until its job ends (as Ray)
        else:
            record.objects[self._entry.oid] = None
            record.kept.append(self)
        self._entry.escaped = True
        if self._entry.state is ObjectState.FAILED:
            process_for([self]).ref_of_failed_leaves(self._entry)
        return _ref_from_id, (self._entry.oid,)

    def __del__(self) -> None:
        # A finalizer may run at any point of any thread: it only appends to a deque.
        entry = getattr(self, "_entry", None)
        if entry is not None:
            entry.dropped_refs.append(entry)


def process_for(refs: Sequence[ObjectRef[Any]]) -> Process:
    """Return this process's client, which is to do something with refs.

    :raises SessionEndedError: there is none, and the refs are of a session that has ended.
    """
    process = current_process()
    if process is not None and process.started:
        return process
    if process is None:  # else one would be begun, to say that it doesn't know them
        for ref in refs:
            ref.entry.refuse_if_ended()
    return require_process()


def task_id_of(entry: Entry) -> str:
    """Return the id of the call that produces an object, as Celery writes it."""
    caller, sequence, place = split_object_id(entry.oid)
    item = item_of_sequence(sequence, place)
    return celery_id(caller, sequence if item is None else item[0])


def split_object_id_checked(oid: bytes) -> None:
    """Check that ``oid`` has the form of an object id.

    :raises ValueError: it has not.
    """
    if len(oid) != 18:
        raise ValueError(f"{oid.hex()!r} is no object id: 18 bytes expected, got {len(oid)}")


def _ref_from_id(oid: bytes) -> ObjectRef[Any]:
    return ObjectRef(require_process().borrow(oid))
