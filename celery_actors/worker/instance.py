"""The user's object in an actor process, or the functions of a task executor."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from inspect import getattr_static
from typing import Any

from celery_actors import serialization
from celery_actors.client.process import Process
from celery_actors.exceptions import ActorsError
from celery_actors.ids import call_owner
from celery_actors.modules import use_paths
from celery_actors.options import METHOD_OPTIONS, MethodOptions
from celery_actors.protocol.calls import CallFlag
from celery_actors.protocol.creation import Creation, decode_definition
from celery_actors.protocol.payload import (
    Form,
    RefArgument,
    decode_payload,
    encode_body,
    split_stored,
)
from celery_actors.protocol.values import unpack_frames
from celery_actors.tracebacks import shown
from celery_actors.worker.raised import argument_value

__all__ = ["NO_ARGUMENTS", "Instance"]

logger = logging.getLogger(__name__)

#: The payload of a call without arguments.
NO_ARGUMENTS = encode_body(serialization.dumps(((), {}), lambda: "no arguments").frames, ())

_TABLES = CallFlag.ARGUMENTS | CallFlag.HANDLES


class Instance:
    """Makes the user's object and calls it.  Used by the executor's thread only.

    :param own_value: returns a value that this actor made and has not committed yet.
    """

    def __init__(
        self,
        process: Process,
        creation: Creation,
        own_value: Callable[[bytes], bytes | None],
        wait_for_commits: Callable[[], None],
    ) -> None:
        self._process = process
        self._creation = creation
        self._own_value = own_value
        self._wait_for_commits = wait_for_commits
        self._definitions: dict[str, Any] = {}
        self._names: dict[str, str] = {}  # of the functions, by digest
        self.object: Any = None
        self._imported = False

    @property
    def is_executor(self) -> bool:
        """Whether this runs functions rather than one object's methods."""
        return not self._creation.class_digest

    def drop(self) -> None:
        """Let go of the user's object, and of its class and functions."""
        self.object = None
        self._definitions.clear()

    def construct(self) -> None:
        """Import the class and run its constructor."""
        kind = self.import_class()
        if kind is not None:
            args, kwargs = self._constructor_arguments()
            self.object = kind(*args, **kwargs)

    async def construct_async(self) -> None:
        """As :meth:`construct`, on an event loop; ``__init__`` may be ``async def``."""
        kind = self.import_class()
        assert kind is not None
        args, kwargs = self._constructor_arguments()
        if not inspect.iscoroutinefunction(kind.__init__):
            self.object = kind(*args, **kwargs)
            return
        made = kind.__new__(kind)
        await kind.__init__(made, *args, **kwargs)
        self.object = made

    def import_class(self) -> Any:
        """Return the actor's class; ``None`` in an executor of tasks."""
        if not self._imported:
            self._imported = True
            use_paths(self._creation.sys_path)
        return None if self.is_executor else self.definition(self._creation.class_digest)

    def _constructor_arguments(self) -> tuple[Sequence[Any], dict[str, Any]]:
        creator = self._process.creator_id
        source = call_owner(creator, self._creation.sequence, self._process.actor_hex)
        return self.arguments(self._creation.payload, self._creation.flags, source)

    def definition(self, digest: str) -> Any:
        """Return a class or function of the job, by the digest of its pickle."""
        known = self._definitions.get(digest)
        if known is None:
            process = self._process
            blob = process.control.definition(process.job_id, digest)
            if blob is None:
                raise ActorsError(
                    f"definition {digest} of job {process.job_id} is gone: the job is over"
                )
            pickled = decode_definition(process.signer, blob, digest)
            known = self._definitions[digest] = serialization.loads([pickled])
            process.keep_borrowed()
            # Kept apart: what ran here is told when the functions are gone.
            self._names[digest] = str(getattr(known, "__qualname__", None) or _unnamed(digest))
        return known

    def target(self, method: str) -> Callable[..., Any]:
        """Return the bound method, or the function, that a call names."""
        if self.is_executor:
            function: Callable[..., Any] = self.definition(method)
            return function
        if method in getattr(self.object, "__dict__", ()):
            # An attribute of the object has the method's name.  Callers mean the class's method.
            kind = type(self.object)
            found: Any = getattr_static(kind, method)
            own: Callable[..., Any] = found.__get__(self.object, kind)
            return own
        bound: Callable[..., Any] = getattr(self.object, method)
        return bound

    def public_method(self, name: str) -> Callable[..., Any]:
        """Return a bound method that those who don't sign may call.

        :raises AttributeError: it is no public method of the object's class.
        """
        method = None if name.startswith("_") else getattr(type(self.object), name, None)
        if self.is_executor or not callable(method):
            raise AttributeError(f"plain clients may call public methods only, not {name}")
        return self.target(name)

    def group_of(self, method: str) -> str | None:
        """Return the concurrency group that the class gives a method."""
        function = getattr(type(self.object), method, None)
        options = getattr(function, METHOD_OPTIONS, None)
        return options.concurrency_group if isinstance(options, MethodOptions) else None

    def describe(self, method: str) -> str:
        """Return what a call runs, for people: ``Counter.increment``, ``f``."""
        if self.is_executor:
            return self._names.get(method) or _unnamed(method)
        return f"{self._creation.class_name}.{method}"

    def full_name(self, method: str) -> str:
        """As :meth:`describe`; loads a function that has not been loaded, to know its name."""
        if self.is_executor and method not in self._names:
            try:
                self.definition(method)
            except BaseException as error:  # noqa: BLE001 - unpickling runs user code
                logger.info("%s can't be named: %s", _unnamed(method), shown(error))
        return self.describe(method)

    def arguments(
        self, payload: bytes, flags: int, source: str
    ) -> tuple[Sequence[Any], dict[str, Any]]:
        """Unpickle a call's arguments, with ref arguments replaced by their values.

        :param source: under which the call holds the actors whose handles are inside.
        :raises TaskError: a ref argument's value is an error: it becomes the call's.
        """
        if not flags & _TABLES:  # as most are
            frames = self._frames(payload[0], memoryview(payload)[1:])
            args, kwargs = serialization.loads(frames)
            self._process.keep_borrowed()
            return args, kwargs
        decoded = decode_payload(payload, flags)
        holds = self._process.admit(source, decoded.actors) if decoded.actors else None
        args, kwargs = serialization.loads(self._frames(decoded.form, decoded.data))
        del holds  # by now the handles share them
        if flags & CallFlag.ARGUMENTS:
            values = [argument_value(self._value, oid, blob) for oid, blob in decoded.arguments]
            args = [values[a.index] if type(a) is RefArgument else a for a in args]
            kwargs = {
                name: values[a.index] if type(a) is RefArgument else a for name, a in kwargs.items()
            }
        self._process.keep_borrowed()
        return args, kwargs

    def _frames(self, form: int, data: memoryview) -> list[memoryview]:
        if form == Form.PLAIN:
            return [data]
        if form == Form.FRAMES:
            return unpack_frames(data)
        oid, blob = split_stored(data)
        return self._process.codec.frames(oid, blob)

    def _value(self, oid: bytes, blob: bytes | None) -> Any:
        if blob is None:
            blob = self._own_value(oid)
        if blob is None:
            self._wait_for_commits()
            blob = self._process.results.fetch([oid])[0]
        if blob is None:
            raise ActorsError(
                f"ref argument {oid.hex()} is no longer stored: its value expired or was released"
            )
        return self._process.codec.load(oid, blob)


def _unnamed(digest: str) -> str:
    """Return what a function is called of which no name is known (yet)."""
    return f"task {digest[:8]}"
