"""ActorHandle: what a program holds of an actor, and calls."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypeAlias, TypeVar, overload

from celery_actors import serialization
from celery_actors.client.current import current_process, require_process
from celery_actors.client.holds import Hold
from celery_actors.declarations import MYPY, Held, submits
from celery_actors.generators import DynamicObjectRefGenerator, ObjectRefGenerator
from celery_actors.ids import ActorID
from celery_actors.options import DYNAMIC, STREAMING, MethodOptions
from celery_actors.protocol.call_options import CallOptions, encode_options
from celery_actors.protocol.creation import decode_handle, encode_handle
from celery_actors.refs import ObjectRef
from celery_actors.signatures import ParameterList
from celery_actors.submission import NO_ARGUMENTS, OlderRemote, dump_arguments

if TYPE_CHECKING:
    from celery_actors.client.process import Process
    from celery_actors.declarations import CallInActor

__all__ = [
    "SYSTEM_METHODS",
    "ActorHandle",
    "ActorMethod",
    "ActorProxy",
    "ClassDescription",
    "MethodDescription",
    "check_group",
    "describe_class",
    "existing_handle",
    "weak_handle",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
R_co = TypeVar("R_co", covariant=True)
P = ParamSpec("P")

_FREE = ParameterList(None)
_DEFAULT = MethodOptions()


@dataclass(frozen=True, slots=True)
class MethodDescription:
    """What a handle knows of a method.

    :ivar max_task_retries: of the actor; the method's own goes before.
    :ivar generator: it yields its values.
    :ivar encoded: the options that travel with each call.
    """

    parameters: ParameterList
    options: MethodOptions = _DEFAULT
    max_task_retries: int = 0
    generator: bool = False
    encoded: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        options = self.options
        retries = options.max_task_retries
        exceptions = options.retry_exceptions
        object.__setattr__(
            self,
            "encoded",
            encode_options(
                CallOptions(
                    self.max_task_retries if retries is None else retries,
                    exceptions if isinstance(exceptions, bool) else tuple(exceptions),
                    options.concurrency_group,
                    options.name,
                    self.streams,
                    options._generator_backpressure_num_objects,
                    options.num_returns == DYNAMIC,
                )
            ),
        )

    @property
    def streams(self) -> bool:
        """Whether its values leave as they are yielded: the default of generators."""
        returns = self.options.num_returns
        return returns == STREAMING or (returns is None and self.generator)

    @property
    def returns(self) -> int:
        """The number of return values; of a stream one, their number."""
        returns = self.options.num_returns
        return returns if isinstance(returns, int) else 1

    def updated(self, groups: Collection[str], changes: Mapping[str, Any]) -> MethodDescription:
        """Return the description with options changed.

        :param groups: the actor's concurrency groups.
        :raises TypeError, ValueError: an unknown option; a value that makes no sense.
        """
        options = self.options.updated(
            **{name: value for name, value in changes.items() if value is not None}
        )
        check_group(options, groups)
        return replace(self, options=options)


def check_group(options: MethodOptions, groups: Collection[str]) -> None:
    """Check that the actor has the group that a method is to run in.

    :raises ValueError: it has not.
    """
    group = options.concurrency_group
    if group is not None and group not in groups:
        known = f"it has {', '.join(sorted(groups))}" if groups else "it has none"
        raise ValueError(f"the actor has no concurrency group {group!r}: {known}")


@dataclass(frozen=True, slots=True)
class ClassDescription:
    """What a handle knows of its class; travels with the handle.

    :ivar concurrent: calls of the actor run several at a time, so that none has to wait for
        arguments of another.
    :ivar module: of the class.
    """

    name: str
    methods: Mapping[str, MethodDescription]
    max_pending_calls: int = -1
    groups: tuple[str, ...] = ()
    concurrent: bool = False
    module: str = ""


@dataclass(frozen=True, slots=True)
class ActorClassDescriptor:
    """What Ray's programs read of ``handle._ray_actor_creation_function_descriptor``.

    Attributes:
        module_name: Where the actor's class is defined.
        class_name: The class's name.
    """

    module_name: str
    class_name: str


#: Methods that every actor has (as Ray's).
SYSTEM_METHODS = {
    name: MethodDescription(_FREE)
    for name in ("__ray_ready__", "__ray_call__", "__ray_terminate__")
}


class ActorMethod(OlderRemote, Generic[P, R_co]):
    """A method of a remote actor: ``handle.method.remote(…)`` calls it.

    To type checkers ``ActorMethod[[int], ObjectRef[str]]`` takes an int, and its ``remote``
    returns a ref to a str.
    """

    __slots__ = ("_description", "_handle", "_name")

    def __init__(self, handle: ActorHandle[Any], name: str, description: MethodDescription) -> None:
        self._handle = handle
        self._name = name
        self._description = description

    def _full_name(self) -> str:
        return f"{self._handle._celery_description.name}.{self._name}"

    @submits
    def remote(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the method; returns at once.

        :returns: an :class:`ObjectRef`, a list of them where ``num_returns`` is more than
            one, ``None`` where it is 0; of a generator an :class:`ObjectRefGenerator`.
        :raises TypeError: the arguments don't fit the method.
        :raises SerializationError: an argument can't be pickled.
        :raises PendingCallsLimitExceeded: too many calls wait unresolved.
        """
        handle = self._handle
        description = self._description
        if kwargs or not description.parameters.fits(len(args)):
            description.parameters.check(self._full_name(), args, kwargs)
        process = require_process(handle._celery_actor)
        if args or kwargs:
            dumped, arguments = dump_arguments(
                args, kwargs, lambda: f"the arguments of {self._full_name()}"
            )
        else:
            dumped, arguments = NO_ARGUMENTS, ()
        returns = description.returns
        entries = process.sender.call(
            handle._celery_actor,
            self._name,
            dumped,
            arguments,
            returns,
            handle._celery_description.max_pending_calls,
            description.encoded,
            bool(arguments) and handle._celery_description.concurrent,
        )
        if returns == 1:
            if description.streams:
                window = description.options._generator_backpressure_num_objects
                return ObjectRefGenerator(process.streams.open(entries[0], window))
            return ObjectRef(entries[0])
        return [ObjectRef(entry) for entry in entries] if entries else None

    @overload
    def options(self, /, *, num_returns: Literal[0], **changes: Any) -> ActorMethod[P, None]: ...
    @overload
    def options(
        self, /, *, num_returns: Literal[1], **changes: Any
    ) -> ActorMethod[P, ObjectRef[Any]]: ...
    @overload
    def options(
        self, /, *, num_returns: Literal["streaming"], **changes: Any
    ) -> ActorMethod[P, ObjectRefGenerator[Any]]: ...
    @overload
    def options(
        self, /, *, num_returns: Literal["dynamic"], **changes: Any
    ) -> ActorMethod[P, ObjectRef[DynamicObjectRefGenerator[Any]]]: ...
    @overload
    def options(
        self, /, *, num_returns: int, **changes: Any
    ) -> ActorMethod[P, list[ObjectRef[Any]]]: ...
    @overload
    def options(self, /, **changes: Any) -> ActorMethod[P, R_co]: ...
    def options(self, /, **changes: Any) -> Any:
        """Return the method with options changed, e.g. ``num_returns=2``; ``None`` changes none.

        :raises TypeError: there is no such option.
        :raises ValueError: an option's value makes no sense; the actor has no such group.
        """
        description = self._description.updated(self._handle._celery_description.groups, changes)
        return ActorMethod(self._handle, self._name, description)

    if not TYPE_CHECKING:  # to checkers it is no callable

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            """Refused: it would run here."""
            name = self._full_name()
            raise TypeError(
                f"Actor methods cannot be called directly: {name} runs in the actor. Instead of "
                f"'object.{self._name}()', use 'object.{self._name}.remote(…)' and get() on what "
                "it returns."
            )

    def __repr__(self) -> str:
        return f"<method {self._name} of {self._handle!r}>"


class ActorHandle(Held[T_co]):
    """A handle to an actor.  The actor lives while any handle to it lives anywhere.

    Handles compare and hash by the actor's id, and pickle into arguments, results,
    containers and ``put``.

    Example::

        counter = Counter.remote()
        celery_actors.get(counter.increment.remote())   # 1
    """

    # Names that no user's method is likely to have: they would hide it.
    __slots__ = ("__weakref__", "_celery_actor", "_celery_description", "_celery_hold")

    if TYPE_CHECKING:

        @property
        def __ray_ready__(self) -> ActorMethod[[], ObjectRef[Any]]: ...
        @property
        def __ray_call__(self) -> CallInActor[T_co]: ...
        @property
        def __ray_terminate__(self) -> ActorMethod[[], ObjectRef[None]]: ...
        @property
        def _actor_id(self) -> ActorID: ...
        @property
        def _ray_actor_id(self) -> ActorID: ...
        @property
        def _ray_actor_creation_function_descriptor(self) -> ActorClassDescriptor: ...
        def __getattr__(self, name: str) -> ActorMethod[..., Any]: ...

    _celery_actor: bytes
    _celery_description: ClassDescription
    _celery_hold: Hold | None

    def __init__(self, actor: bytes, description: ClassDescription, hold: Hold | None) -> None:
        object.__setattr__(self, "_celery_actor", actor)
        object.__setattr__(self, "_celery_description", description)
        object.__setattr__(self, "_celery_hold", hold)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            description = self._celery_description.methods.get(name) or SYSTEM_METHODS.get(name)
            if description is not None:
                return ActorMethod(self, name, description)
            # Ray's names, which public programs use; a method of the user's goes before.
            if name in ("_actor_id", "_ray_actor_id"):
                return ActorID(self._celery_actor)
            if name == "_ray_actor_creation_function_descriptor":
                described = self._celery_description
                return ActorClassDescriptor(described.module, described.name)
            raise AttributeError(
                f"actor {self._celery_description.name} has no remote method {name!r}"
                + ("" if name.startswith("__") else f"; it has {', '.join(dir(self)) or 'none'}")
            )

    if not TYPE_CHECKING:  # to checkers there is nothing to set

        def __setattr__(self, name: str, value: Any) -> None:
            raise AttributeError(
                f"can't set {name!r} on a handle: the state is in the actor; give it a method for "
                "that"
            )

    def __dir__(self) -> list[str]:
        return sorted(self._celery_description.methods)

    def __hash__(self) -> int:
        return hash(self._celery_actor)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ActorHandle):
            return NotImplemented
        return self._celery_actor == other._celery_actor

    def __repr__(self) -> str:
        return f"Actor({self._celery_description.name}, {self._celery_actor.hex()})"

    def __reduce__(self) -> tuple[Any, tuple[bytes, ClassDescription, bool]]:
        process = current_process()
        if process is not None:
            process.refuse_former(self._celery_actor)
            process.share(self._celery_actor)
        record = serialization.outgoing()
        strong = record is not None and self._celery_hold is not None
        if record is not None and self._celery_hold is not None:
            record.actors[self._celery_actor] = None
            record.kept.append(self._celery_hold)
        elif record is None:
            logger.warning(
                "a handle to %s was pickled outside of a call, a result or put(): what comes of "
                "it is a weak handle, which does not keep the actor alive",
                self._celery_description.name,
            )
        return _arrived, (self._celery_actor, self._celery_description, strong)


if MYPY or not TYPE_CHECKING:
    ActorProxy: TypeAlias = ActorHandle[T]
else:
    ActorProxy: TypeAlias = Held[T] | type[T]
"""A handle whose methods are all under ``@method``, for checkers without a plugin: see docs."""


def _arrived(actor: bytes, description: ClassDescription, strong: bool) -> ActorHandle[Any]:
    """Make the handle in the process where it arrives."""
    process = require_process()
    # To a dead actor, and of an actor to itself, the handle is weak.
    hold = process.hold(actor) if strong and actor != process.actor_id else None
    return ActorHandle(actor, description, hold)


def describe_class(process: Process, actor: bytes, description: ClassDescription) -> bytes:
    """Return what handles to an actor are made from where it is found by its name."""
    dumped = serialization.dumps(
        description, lambda: f"the methods of {description.name}", in_band=True
    )
    return encode_handle(process.signer, actor, bytes(dumped.frames[0]))


def weak_handle(
    process: Process, actor: bytes, described: bytes, hold: Hold | None = None
) -> ActorHandle[Any]:
    """Return a handle made from what :func:`describe_class` returned.

    :param hold: makes it a strong one.
    """
    pickled = decode_handle(process.signer, actor, described)
    return ActorHandle(actor, serialization.loads([pickled]), hold)


def existing_handle(process: Process, actor: bytes) -> ActorHandle[Any] | None:
    """Return a strong handle to an actor of another process; ``None``: it is ending."""
    described = process.control.actor_handle(actor.hex())
    hold = process.hold(actor)
    if described is None or hold is None:
        return None
    return weak_handle(process, actor, described, hold)


def actor_id_of(handle: Any) -> bytes:
    """Return the id of the actor behind a handle.

    :raises TypeError: it is no handle.
    """
    if not isinstance(handle, ActorHandle):
        raise TypeError(f"an actor handle is expected, not {handle!r:.100}")
    return handle._celery_actor
