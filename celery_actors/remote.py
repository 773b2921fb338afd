"""``@remote``: classes become actor classes, functions become remote functions."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from celery_actors import serialization
from celery_actors.client.creation import begin_actor, create_actor, create_when_ready
from celery_actors.client.current import require_process
from celery_actors.client.executors import Shape
from celery_actors.client.process import Process
from celery_actors.control import ActorSpec
from celery_actors.generators import ObjectRefGenerator
from celery_actors.handle import ActorHandle, ClassDescription, MethodDescription, check_group
from celery_actors.ids import new_actor_id
from celery_actors.options import (
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
from celery_actors.protocol.payload import encode_arguments
from celery_actors.refs import ObjectRef
from celery_actors.signatures import ParameterList, parameters_of
from celery_actors.submission import dump_arguments

__all__ = ["ActorClass", "RemoteFunction", "method", "remote"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_DEFAULT = MethodOptions()


class _Definitions:
    """The pickled form of a class or function, stored once a job."""

    __slots__ = ("_digest", "_job", "_pickled")

    def __init__(self) -> None:
        self._pickled: bytes | None = None
        self._digest = ""
        self._job = ""

    def digest(self, process: Process, value: Any, name: str) -> str:
        """Return the name under which ``value`` is stored for this job; store it if needed."""
        if self._pickled is None:
            dumped = serialization.dumps(value, lambda: f"the definition of {name}")
            self._pickled = b"".join(bytes(frame) for frame in dumped.frames[:1])
            self._digest = definition_digest(self._pickled)
        if self._job != process.job_id:
            blob = encode_definition(process.signer, self._pickled)
            process.control.define(process.job_id, self._digest, blob)
            self._job = process.job_id
        return self._digest


def _own_paths() -> tuple[str, ...]:
    """Where this program finds its own modules: a worker on this machine looks there too."""
    libraries = tuple(path for path in (sys.prefix, sys.base_prefix) if path)
    folders = [Path(path).absolute() if path else Path.cwd() for path in sys.path]
    return tuple(
        str(path) for path in folders if not str(path).startswith(libraries) and path.is_dir()
    )


class ActorClass(Generic[T]):
    """A class whose instances are actors: ``Class.remote(…)`` creates one."""

    def __init__(
        self, kind: type[T], options: ActorOptions, definitions: _Definitions | None = None
    ) -> None:
        self._kind = kind
        self._options = options
        self._definitions = definitions or _Definitions()
        self._methods: dict[str, MethodDescription] | None = None
        self.__name__ = kind.__name__
        self.__qualname__ = kind.__qualname__
        self.__doc__ = kind.__doc__
        self.__module__ = kind.__module__
        self.__wrapped__ = kind

    def remote(self, *args: Any, **kwargs: Any) -> ActorHandle[T]:
        """Create an actor; returns at once with its handle.

        :raises TypeError: the arguments don't fit the constructor.
        :raises InsufficientResources: no node is large enough (e.g. not enough GPUs).
        :raises ValueError: its placement group has no such bundle, or none is large enough.
        :raises SerializationError: the class or an argument can't be pickled.
        """
        name = self._kind.__name__
        self._constructor().check(name, args, kwargs)
        methods = self._described()
        process = require_process()
        where = _destination(process, self._options, f"actor {name}")
        digest = self._definitions.digest(process, self._kind, name)
        dumped, arguments = dump_arguments(
            args, kwargs, lambda: f"the arguments of {name}'s constructor"
        )
        payload, flags, kept = process.sender.payload(dumped)
        if arguments:
            flags |= CallFlag.ARGUMENTS
        if self._options.lifetime == "detached" and process.ends_cluster:
            logger.warning(
                "%s is detached, but this program's cluster is private and ends with it: begin one "
                "that stays with `celery-actors start --head`",
                name,
            )
        actor = new_actor_id()
        sequence = begin_actor(process, actor, kept)
        options = self._options
        concurrency = concurrency_of(
            self._kind, options.max_concurrency, options.concurrency_groups
        )

        def create() -> None:
            values = encode_arguments([(e.oid, e.blob) for e in arguments]) if arguments else b""
            creation = Creation(
                digest,
                name,
                sequence,
                flags,
                values + payload,
                _own_paths(),
                concurrency,
                where.target.group,
                where.captures,
            )
            # Written before the actor exists, so that a handle inside its arguments can't
            # lose its last hold on the way.
            owner = f"{process.caller.hex()}/c{sequence}:{actor.hex()}"
            for held in dumped.actors:
                process.control.hold(held.hex(), owner)
            spec = ActorSpec(
                actor_id=actor.hex(),
                job_id=process.job_id,
                caller_id=process.caller.hex(),
                kind="actor",
                class_name=name,
                resources=options.requested(),
                blob=encode_creation(process.signer, actor, creation),
                detached=options.lifetime == "detached",
                target=where.target,
            )
            create_actor(process, spec)

        hold = create_when_ready(process, actor, arguments, create)
        description = ClassDescription(
            name, methods, options.max_pending_calls, tuple(options.concurrency_groups)
        )
        return ActorHandle(actor, description, hold)

    def options(self, **changes: Any) -> ActorClass[T]:
        """Return the class with options changed.

        :raises TypeError: there is no such option.
        """
        return ActorClass(self._kind, self._options.updated(**changes), self._definitions)

    def _constructor(self) -> ParameterList:
        if self._kind.__init__ is object.__init__:
            if self._kind.__new__ is object.__new__:
                return ParameterList(())
            return parameters_of(self._kind.__new__, skip_first=True)
        return parameters_of(self._kind.__init__, skip_first=True)

    def _described(self) -> dict[str, MethodDescription]:
        """Return the methods; properties and plain attributes can't be read remotely."""
        if self._methods is None:
            methods: dict[str, MethodDescription] = {}
            for name, _ in inspect.getmembers(self._kind, callable):
                raw = inspect.getattr_static(self._kind, name)
                bound_to_class = isinstance(raw, (classmethod, staticmethod))
                function = raw.__func__ if bound_to_class else raw
                if name.startswith("__") and (name == "__init__" or name in dir(object)):
                    continue
                if isinstance(raw, type) or not callable(function):
                    continue
                options = getattr(function, METHOD_OPTIONS, None) or _DEFAULT
                check_group(options, self._options.concurrency_groups)
                skip = not isinstance(raw, staticmethod)
                methods[name] = MethodDescription(
                    parameters_of(function, skip),
                    options,
                    self._options.max_task_retries,
                    _generates(function),
                )
            self._methods = methods
        return self._methods

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: it would run here."""
        name = self._kind.__name__
        raise TypeError(
            f"{name} is an actor class and can't be instantiated here: use {name}.remote(…)"
        )

    def __repr__(self) -> str:
        return f"ActorClass({self._kind.__name__})"

    def __reduce__(self) -> tuple[Any, tuple[type[T], ActorOptions]]:
        return ActorClass, (self._kind, self._options)


def _destination(process: Process, options: ActorOptions | TaskOptions, what: str) -> Destination:
    strategy, selector = options.scheduling_strategy, options.label_selector
    return destination(process, strategy, selector, options.requested(), what)


def _generates(function: Callable[..., Any]) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


class RemoteFunction:
    """A function that runs elsewhere: ``function.remote(…)`` submits a task."""

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
            options.num_returns is None and _generates(function)
        )
        exceptions = options.retry_exceptions
        self._encoded = encode_options(
            CallOptions(
                options.max_retries if exceptions else 0,
                exceptions if isinstance(exceptions, bool) else tuple(exceptions),
                name=options.name,
                streams=self._streams,
                window=options._generator_backpressure_num_objects,
            )
        )
        self.__name__ = getattr(function, "__name__", "function")
        self.__qualname__ = getattr(function, "__qualname__", self.__name__)
        self.__doc__ = function.__doc__
        self.__module__ = function.__module__
        self.__wrapped__ = function

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Submit a task; returns at once.

        :returns: as :meth:`ActorMethod.remote <celery_actors.handle.ActorMethod.remote>`.
        :raises TypeError: the arguments don't fit the function.
        :raises InsufficientResources: no node is large enough.
        :raises ValueError: its placement group has no such bundle, or none is large enough.
        :raises SerializationError: the function or an argument can't be pickled.
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

    def options(self, **changes: Any) -> RemoteFunction:
        """Return the function with options changed.

        :raises TypeError: there is no such option.
        """
        return RemoteFunction(self._function, self._options.updated(**changes), self._definitions)

    def _shape(self, process: Process) -> Shape:
        shape = self._shapes.get(process.job_id)
        if shape is None:
            resources = tuple(sorted(self._options.requested().items()))
            where = _destination(process, self._options, f"task {self.__qualname__}")
            shape = Shape(resources, _own_paths(), where.target, where.captures)
            self._shapes[process.job_id] = shape
        return shape

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: it would run here."""
        raise TypeError(
            f"{self.__qualname__} is a remote function and can't be called here: use "
            f"{self.__name__}.remote(…)"
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
    if callable(target):
        return RemoteFunction(target, TaskOptions().updated(**options))
    raise TypeError(f"@remote goes on a class or a function, not on {target!r:.100}")


@overload
def remote(target: type[T], /) -> ActorClass[T]: ...  # type: ignore[overload-overlap]
@overload
def remote(target: Callable[..., Any], /) -> RemoteFunction: ...
@overload
def remote(**options: Any) -> Callable[[Any], Any]: ...
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
    :raises ValueError: an option's value makes no sense.
    """
    if args:
        if len(args) > 1 or options:
            raise TypeError("use @remote, @remote(option=…) or remote(target)")
        return _wrap(args[0], {})
    if not options:
        raise TypeError("@remote() needs options; without any, use @remote")
    return lambda target: _wrap(target, options)


def method(**options: Any) -> Callable[[F], F]:
    """Set options of an actor's method, e.g. ``@method(num_returns=2)``.

    :raises TypeError: there is no such option.
    """
    described = MethodOptions().updated(**options)

    def decorate(function: F) -> F:
        setattr(function, METHOD_OPTIONS, described)
        return function

    return decorate
