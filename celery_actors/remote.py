"""``@remote``: classes become actor classes, functions become remote functions."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    NoReturn,
    ParamSpec,
    Protocol,
    TypeVar,
    overload,
)

from celery_actors import serialization
from celery_actors.client.creation import (
    abandon_actor,
    begin_actor,
    create_actor,
    let_calls_go,
    own_actor,
    provide_when_ready,
)
from celery_actors.client.current import require_process
from celery_actors.client.leases import Shape
from celery_actors.client.process import Process
from celery_actors.control import ActorSpec
from celery_actors.declarations import (
    ActorClassOf,
    Untold,
    creates,
    describes,
    submits,
)
from celery_actors.exceptions import ActorAlreadyExistsError
from celery_actors.generators import DynamicObjectRefGenerator, ObjectRefGenerator
from celery_actors.handle import (
    SYSTEM_METHODS,
    ActorHandle,
    ClassDescription,
    MethodDescription,
    check_group,
    describe_class,
    existing_handle,
)
from celery_actors.ids import call_owner, new_actor_id
from celery_actors.options import (
    DYNAMIC,
    METHOD_OPTIONS,
    STREAMING,
    ActorOptions,
    MethodOptions,
    TaskOptions,
)
from celery_actors.placement import Destination, destination
from celery_actors.protocol.call_options import CallOptions, encode_options
from celery_actors.protocol.calls import CallFlag
from celery_actors.protocol.concurrency import concurrency_of
from celery_actors.protocol.creation import (
    Creation,
    definition_digest,
    encode_creation,
    encode_definition,
)
from celery_actors.protocol.environment import Environment
from celery_actors.protocol.payload import encode_arguments
from celery_actors.refs import ObjectRef
from celery_actors.signatures import (
    ParameterList,
    generates,
    is_asyncio,
    members_of,
    parameters_of,
    unwrapped,
)
from celery_actors.submission import OlderRemote, dump_arguments

__all__ = [
    "ActorClass",
    "ActorClassInheritanceException",
    "RemoteDecorator",
    "RemoteFunction",
    "method",
    "remote",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")
V = TypeVar("V")
R_co = TypeVar("R_co", covariant=True)
F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")

_DEFAULT = MethodOptions()


class _Definitions:
    """The pickled form of a class or function, stored once a job."""

    __slots__ = ("_digest", "_job", "_kept", "_pickled")

    def __init__(self) -> None:
        self._pickled: bytes | None = None
        self._digest = ""
        self._job = ""
        self._kept: list[Any] = []

    def digest(self, process: Process, value: Any, name: str) -> str:
        """Return the name under which ``value`` is stored for this job; store it if needed."""
        if self._pickled is None:
            dumped = serialization.dumps(value, lambda: f"the definition of {name}", in_band=True)
            self._pickled = bytes(dumped.frames[0])
            self._kept = dumped.kept  # refs and handles inside live as long as what is remote
            self._digest = definition_digest(self._pickled)
        if self._job != process.job_id:
            blob = encode_definition(process.signer, self._pickled)
            process.control.define(process.job_id, self._digest, blob)
            self._job = process.job_id
        process.definition_names[self._digest] = name
        return self._digest


@dataclass(frozen=True, slots=True)
class ActorClassMetadata:
    """What Ray's programs read of ``Class.__ray_metadata__``.

    Attributes:
        modified_class: The decorated class itself.
        class_name: Its name.
    """

    modified_class: type[Any]
    class_name: str


class ActorClassInheritanceException(TypeError):
    """A class was to inherit from an actor class."""


class ActorClass(OlderRemote, Generic[T]):
    """A class whose instances are actors: ``Class.remote(…)`` creates one.

    It stands under the name of the class that it wraps, also for the class's own methods.
    So every attribute that it does not have itself is the class's: constants, static and
    class methods, nested classes.  Its private attributes have mangled names, so that they
    hide nothing.
    """

    __wrapped__: type[T]
    __kind: type[T]
    __options: ActorOptions
    __definitions: _Definitions
    __methods: dict[str, MethodDescription] | None
    __environments: dict[str, Environment]  # by job: files are packaged once

    def __init__(
        self, kind: type[T], options: ActorOptions, definitions: _Definitions | None = None
    ) -> None:
        own = self.__dict__  # what is set in another way becomes the class's
        own["_ActorClass__kind"] = kind
        own["_ActorClass__options"] = options
        own["_ActorClass__definitions"] = definitions or _Definitions()
        own["_ActorClass__methods"] = None
        own["_ActorClass__environments"] = {}
        for name in ("__name__", "__qualname__", "__doc__", "__module__"):
            own[name] = getattr(kind, name)
        own["__wrapped__"] = kind

    @creates
    def remote(self, /, *args: Any, **kwargs: Any) -> ActorHandle[T]:
        """Create an actor; returns at once with its handle.

        :raises TypeError: the arguments don't fit the constructor.
        :raises ActorAlreadyExistsError: an actor of that name lives, and ``get_if_exists`` is
            not set.
        :raises InsufficientResources: no node is large enough (e.g. not enough GPUs).
        :raises ValueError: its placement group has no such bundle, or none is large enough.
        :raises SerializationError: the class or an argument can't be pickled.
        :raises RuntimeEnvSetupError: files of its ``runtime_env`` can't be packaged.
        """
        name = self.__kind.__name__
        self.__constructor().check(name, args, kwargs)
        methods = self.__described()
        process = require_process()
        where = _destination(process, self.__options, f"actor {name}")
        environment = self.__environment(process)
        options = self.__options
        detached = options.lifetime == "detached"
        if detached and process.ends_cluster:
            logger.warning(
                "%s is detached, but this program's cluster is private and ends with it: begin one "
                "that stays with `celery-actors start --head`",
                name,
            )
        digest = self.__definitions.digest(process, self.__kind, name)
        dumped, arguments = dump_arguments(
            args, kwargs, lambda: f"the arguments of {name}'s constructor"
        )
        restarts = options.max_restarts != 0
        actor = new_actor_id()
        payload, flags, kept = process.sender.payload(dumped, actor, inline=detached or restarts)
        if arguments:
            flags |= CallFlag.ARGUMENTS
            process.recovery.resolve_foreign([e for e in arguments if e.foreign and e.pending])
        private = options.name is None
        sequence = begin_actor(process, actor, kept, dumped.actors, name, restarts, private)
        concurrency = concurrency_of(
            is_asyncio(self.__kind), options.max_concurrency, options.concurrency_groups
        )
        description = ClassDescription(
            name,
            methods,
            options.max_pending_calls,
            tuple(options.concurrency_groups),
            not concurrency.serial,
            self.__kind.__module__,
        )
        sys_path = process.environments.paths()

        def encode() -> bytes:
            values = encode_arguments([(e.oid, e.blob) for e in arguments]) if arguments else b""
            process.sender.mark_carried(arguments)
            creation = Creation(
                digest,
                name,
                sequence,
                flags,
                values + payload,
                sys_path,
                concurrency,
                environment,
                where.target.group,
                where.captures,
                *process.environments.home(),
            )
            # Written before the actor can begin, so that a handle inside its arguments
            # can't lose its last hold on the way.
            owner = call_owner(process.caller.hex(), sequence, actor.hex())
            for held in dumped.actors:
                process.control.hold(held.hex(), owner)
            return encode_creation(process.signer, actor, creation)

        def spec(blob: bytes | None) -> ActorSpec:
            return ActorSpec(
                actor_id=actor.hex(),
                job_id=process.job_id,
                caller_id=process.caller.hex(),
                kind="actor",
                class_name=name,
                resources=options.requested(),
                blob=blob,
                detached=detached,
                name=options.name or "",
                namespace=process.namespace if options.namespace is None else options.namespace,
                max_restarts=options.max_restarts,
                handle=describe_class(process, actor, description),
                target=where.target,
            )

        awaited = any(entry.pending for entry in arguments)
        try:
            if not awaited:
                process.sender.settle_argument_errors(arguments)
            created = spec(None if awaited else encode())
            while (existing := create_actor(process, created)) is not None:
                other = self.__existing(process, created, existing)
                if other is not None:
                    abandon_actor(process, actor)
                    return other
        except BaseException:
            abandon_actor(process, actor)
            raise
        hold = own_actor(process, actor)
        if awaited:
            provide_when_ready(process, actor, arguments, encode)
        else:
            let_calls_go(process, actor)
        return ActorHandle(actor, description, hold)

    def __existing(self, process: Process, spec: ActorSpec, existing: str) -> ActorHandle[T] | None:
        """Return a handle to the actor that has the name; ``None``: it is just ending.

        :raises ActorAlreadyExistsError: it is not wanted.
        """
        if not self.__options.get_if_exists:
            raise ActorAlreadyExistsError(
                f"an actor named {spec.name!r} lives in namespace {spec.namespace!r} already "
                f"({existing}): take it with get_actor(), or create it with get_if_exists=True"
            )
        return existing_handle(process, bytes.fromhex(existing))

    def options(self, /, **changes: Any) -> ActorClass[T]:
        """Return the class with options changed; ``None`` stands for an option's default.

        :raises TypeError: there is no such option.
        """
        return ActorClass(self.__kind, self.__options.updated(**changes), self.__definitions)

    def __environment(self, process: Process) -> Environment:
        environment = self.__environments.get(process.job_id)
        if environment is None:
            environment = process.environments.of(self.__options.runtime_env)
            self.__environments[process.job_id] = environment
        return environment

    def __constructor(self) -> ParameterList:
        if self.__kind.__init__ is object.__init__:
            if self.__kind.__new__ is object.__new__:
                return ParameterList(())
            return parameters_of(self.__kind.__new__, skip_first=True)
        return parameters_of(self.__kind.__init__, skip_first=True)

    def __described(self) -> dict[str, MethodDescription]:
        """Return the methods; properties and plain attributes can't be read remotely."""
        if self.__methods is not None:
            return self.__methods
        methods: dict[str, MethodDescription] = {}
        for name, raw, function in members_of(self.__kind):
            if name.startswith("__") and (name == "__init__" or name in _NOT_REMOTE):
                continue
            options = _method_options(function)
            check_group(options, self.__options.concurrency_groups)
            methods[name] = MethodDescription(
                parameters_of(function, not isinstance(raw, staticmethod)),
                options,
                self.__options.max_task_retries,
                generates(function),
            )
        self.__dict__["_ActorClass__methods"] = methods
        return methods

    if not TYPE_CHECKING:  # to checkers it is no callable, and what the class has they know

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            """Refused: it would run here."""
            name = self.__kind.__name__
            raise TypeError(
                f"Actors cannot be instantiated directly: {name} is an actor class. Instead of "
                f"'{name}()', use '{name}.remote(…)'."
            )

        def __getattr__(self, name: str) -> Any:
            """Return what the class has under that name."""
            kind = self.__dict__.get("_ActorClass__kind")
            if kind is None:  # copied or unpickled by somebody, and not made yet
                raise AttributeError(name)
            try:
                return getattr(kind, name)
            except AttributeError:
                raise AttributeError(
                    f"actor class {kind.__name__} has no attribute {name!r}"
                ) from None

        def __setattr__(self, name: str, value: Any) -> None:
            """Set an attribute of the class; what this object has itself is set here."""
            if name in self.__dict__ or hasattr(ActorClass, name):
                object.__setattr__(self, name, value)
            else:
                setattr(self.__kind, name, value)

        def __delattr__(self, name: str) -> None:
            if name in self.__dict__:
                object.__delattr__(self, name)
            else:
                delattr(self.__kind, name)

        def __instancecheck__(self, instance: object) -> bool:
            return isinstance(instance, self.__kind)

        def __subclasscheck__(self, subclass: type) -> bool:
            return issubclass(subclass, self.__kind)

    @property
    def __ray_metadata__(self) -> ActorClassMetadata:
        """The class behind this name."""
        return ActorClassMetadata(self.__kind, self.__kind.__qualname__)

    @property
    def __ray_actor_class__(self) -> type[T]:
        """The decorated class itself, as Ray's programs ask for it."""
        return self.__kind

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *dir(self.__kind)})

    def __mro_entries__(self, bases: tuple[object, ...]) -> NoReturn:
        """Refused: a class can't inherit from an actor class."""
        name = self.__kind.__name__
        raise ActorClassInheritanceException(
            f"Inheriting from actor classes is not supported: {name} is one. Let both classes "
            "inherit from a plain class, and make actor classes of these"
        )

    def __repr__(self) -> str:
        return f"ActorClass({self.__kind.__name__})"

    def __reduce__(self) -> tuple[Any, tuple[type[T], ActorOptions, str | None]]:
        return _arrived, (self.__kind, self.__options, self.__doc__)


def _arrived(kind: type[T], options: ActorOptions, doc: str | None) -> ActorClass[T]:
    """Make the actor class where it arrives.

    :param doc: of the class, which is still empty where a method of its own refers to it.
    """
    arrived = ActorClass(kind, options)
    arrived.__doc__ = doc
    return arrived


#: Special methods that every object has: a handle's own are meant.  And those of every actor.
_NOT_REMOTE = frozenset((*dir(object), *SYSTEM_METHODS))


def _method_options(function: Callable[..., Any]) -> MethodOptions:
    """Return what ``@method`` says, wherever it stands among the decorators."""
    for each in unwrapped(function):
        options = getattr(each, METHOD_OPTIONS, None)
        if isinstance(options, MethodOptions):
            return options
    return _DEFAULT


def _destination(process: Process, options: ActorOptions | TaskOptions, what: str) -> Destination:
    strategy, selector = options.scheduling_strategy, options.label_selector
    return destination(process, strategy, selector, options.requested(), what)


class RemoteFunction(OlderRemote, Generic[P, R_co]):
    """A function that runs elsewhere: ``function.remote(…)`` submits a task.

    To type checkers ``RemoteFunction[[int], ObjectRef[str]]`` takes an int, and its
    ``remote`` returns a ref to a str.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        options: TaskOptions,
        definitions: _Definitions | None = None,
    ) -> None:
        self._function = function
        self._options = options
        self._definitions = definitions or _Definitions()
        self._parameters = parameters_of(function)
        self._shapes: dict[str, Shape] = {}
        self._streams = options.num_returns == STREAMING or (
            options.num_returns is None and generates(function)
        )
        exceptions = options.retry_exceptions
        self._encoded = encode_options(
            CallOptions(
                options.max_retries if exceptions else 0,
                exceptions if isinstance(exceptions, bool) else tuple(exceptions),
                name=options.name,
                streams=self._streams,
                window=options._generator_backpressure_num_objects,
                dynamic=options.num_returns == DYNAMIC,
            )
        )
        self.__name__ = getattr(function, "__name__", "function")
        self.__qualname__ = getattr(function, "__qualname__", self.__name__)
        self.__doc__ = function.__doc__
        self.__module__ = function.__module__
        self.__wrapped__ = function

    @submits
    def remote(self, /, *args: Any, **kwargs: Any) -> Any:
        """Submit a task; returns at once.

        :returns: as :meth:`ActorMethod.remote <celery_actors.handle.ActorMethod.remote>`.
        :raises TypeError: the arguments don't fit the function.
        :raises InsufficientResources: no node is large enough.
        :raises ValueError: its placement group has no such bundle, or none is large enough.
        :raises SerializationError: the function or an argument can't be pickled.
        :raises RuntimeEnvSetupError: files of its ``runtime_env`` can't be packaged.
        """
        name = self.__qualname__
        self._parameters.check(self.__name__, args, kwargs)
        process = require_process()
        digest = self._definitions.digest(process, self._function, name)
        dumped, arguments = dump_arguments(args, kwargs, lambda: f"the arguments of {name}")
        options = self._options
        returns = options.num_returns if isinstance(options.num_returns, int) else 1
        entries = process.executors.submit(
            self._shape(process),
            digest,
            dumped,
            arguments,
            returns,
            options.max_retries,
            self._encoded,
        )
        if returns == 1:
            if self._streams:
                window = options._generator_backpressure_num_objects
                return ObjectRefGenerator(process.streams.open(entries[0], window))
            return ObjectRef(entries[0])
        return [ObjectRef(entry) for entry in entries] if entries else None

    @overload
    def options(self, /, *, num_returns: Literal[0], **changes: Any) -> RemoteFunction[P, None]: ...
    @overload
    def options(
        self, /, *, num_returns: Literal[1], **changes: Any
    ) -> RemoteFunction[P, ObjectRef[Any]]: ...
    @overload
    def options(
        self, /, *, num_returns: Literal["streaming"], **changes: Any
    ) -> RemoteFunction[P, ObjectRefGenerator[Any]]: ...
    @overload
    def options(
        self, /, *, num_returns: Literal["dynamic"], **changes: Any
    ) -> RemoteFunction[P, ObjectRef[DynamicObjectRefGenerator[Any]]]: ...
    @overload
    def options(
        self, /, *, num_returns: int, **changes: Any
    ) -> RemoteFunction[P, list[ObjectRef[Any]]]: ...
    @overload
    def options(self, /, **changes: Any) -> RemoteFunction[P, R_co]: ...
    def options(self, /, **changes: Any) -> Any:
        """Return the function with options changed; ``None`` stands for an option's default.

        :raises TypeError: there is no such option.
        """
        return RemoteFunction(self._function, self._options.updated(**changes), self._definitions)

    def _shape(self, process: Process) -> Shape:
        shape = self._shapes.get(process.job_id)
        if shape is None:
            resources = tuple(sorted(self._options.requested().items()))
            where = _destination(process, self._options, f"task {self.__qualname__}")
            environment = process.environments.of(self._options.runtime_env)
            paths = process.environments.paths()
            most = self._options.max_calls
            shape = Shape(
                resources,
                paths,
                environment,
                where.target,
                where.captures,
                most,
                self.__qualname__ if most else "",
            )
            self._shapes[process.job_id] = shape
        return shape

    if not TYPE_CHECKING:  # to checkers it is no callable

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            """Refused: it would run here."""
            raise TypeError(
                f"Remote functions cannot be called directly. Instead of "
                f"'{self.__qualname__}()', use '{self.__qualname__}.remote(…)'."
            )

    def __repr__(self) -> str:
        return f"RemoteFunction({self.__qualname__})"

    def __reduce__(self) -> tuple[Any, tuple[Callable[..., Any], TaskOptions]]:
        return RemoteFunction, (self._function, self._options)


def _wrap(target: Any, options: dict[str, Any]) -> Any:
    if isinstance(target, (ActorClass, RemoteFunction)):
        raise TypeError(f"{target!r} is remote already: use .options() to change its options")
    if inspect.isclass(target):
        return ActorClass(target, ActorOptions().updated(**options))
    if inspect.iscoroutinefunction(target):
        raise ValueError(
            "'async def' should not be used for remote tasks: a task has no event loop. Wrap the "
            f"coroutine in a function that calls asyncio.run({target.__name__}(…)), or make it a "
            "method of an actor"
        )
    if callable(target):
        return RemoteFunction(target, TaskOptions().updated(**options))
    raise TypeError(f"@remote goes on a class or a function, not on {target!r:.100}")


class RemoteDecorator(Protocol):
    """What ``remote(option=…)`` returns: ``remote`` with options to come."""

    @overload
    def __call__(self, target: type[T], /) -> ActorClassOf[T]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, target: Callable[P, Untold], /) -> RemoteFunction[P, Any]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, target: Callable[P, Iterator[V] | AsyncIterator[V]], /
    ) -> RemoteFunction[P, ObjectRefGenerator[V]]: ...
    @overload
    def __call__(self, target: Callable[P, V], /) -> RemoteFunction[P, ObjectRef[V]]: ...


@overload
def remote(target: type[T], /) -> ActorClassOf[T]: ...  # type: ignore[overload-overlap]
@overload
def remote(target: Callable[P, Untold], /) -> RemoteFunction[P, Any]: ...
@overload
def remote(  # type: ignore[overload-overlap]
    target: Callable[P, Iterator[V] | AsyncIterator[V]], /
) -> RemoteFunction[P, ObjectRefGenerator[V]]: ...
@overload
def remote(target: Callable[P, V], /) -> RemoteFunction[P, ObjectRef[V]]: ...
@overload
def remote(
    *, num_returns: Literal[0], **options: Any
) -> Callable[[Callable[P, Any]], RemoteFunction[P, None]]: ...
@overload
def remote(*, num_returns: Literal[1, "streaming"], **options: Any) -> RemoteDecorator: ...
@overload
def remote(
    *, num_returns: Literal["dynamic"], **options: Any
) -> Callable[[Callable[P, Any]], RemoteFunction[P, ObjectRef[DynamicObjectRefGenerator[Any]]]]: ...
@overload
def remote(
    *, num_returns: int, **options: Any
) -> Callable[[Callable[P, Any]], RemoteFunction[P, list[ObjectRef[Any]]]]: ...
@overload
def remote(**options: Any) -> RemoteDecorator: ...
def remote(*args: Any, **options: Any) -> Any:
    """Make a class an actor class, or a function a remote function.

    Used bare, with options, or as a function (as Ray's)::

        @remote
        class Counter: ...

        @remote(num_gpus=1)
        class Net: ...

        Counter = remote(PlainCounter)

    :raises TypeError: an unknown option (the message names the near ones), or a target
        that is neither class nor function.
    :raises ValueError: an option's value makes no sense, or the function is ``async def``.
    """
    if args:
        if len(args) > 1 or options:
            raise TypeError("use @remote, @remote(option=…) or remote(target)")
        return _wrap(args[0], {})
    if not options:
        raise TypeError("@remote() needs options; without any, use @remote")
    return lambda target: _wrap(target, options)


@describes
def method(*args: Any, **options: Any) -> Any:
    """Set options of an actor's method, e.g. ``@method(num_returns=2)``.

    Bare, ``@method`` sets none; it tells checkers what the method is (see docs/typing.md).

    :raises TypeError: there is no such option.
    """
    if args and (len(args) > 1 or options or not callable(args[0])):
        raise TypeError("use @method or @method(option=…)")
    described = MethodOptions().updated(**options)

    def decorate(function: F) -> F:
        setattr(function, METHOD_OPTIONS, described)
        return function

    return decorate(args[0]) if args else decorate
