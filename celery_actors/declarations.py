"""What type checkers are told of ``.remote``, where the code itself can't say it.

Nothing in here does anything in a program that runs: the decorators return what they get.
Checkers differ in what they can be told:

* mypy gets the exact types from :mod:`celery_actors.mypy_plugin`; without it, what it can't
  know is ``Any``.
* pyright has no plugins, but understands descriptors and protocols that mypy doesn't: the
  second half of this module is for it (and for editors on top of it) alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    ParamSpec,
    Protocol,
    TypeAlias,
    TypeVar,
    overload,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator
    from typing import Concatenate, Literal, NoReturn

    from typing_extensions import Never

    from celery_actors.generators import ObjectRefGenerator
    from celery_actors.handle import ActorHandle, ActorMethod
    from celery_actors.refs import ObjectRef
    from celery_actors.remote import ActorClass, RemoteFunction

__all__ = [
    "MYPY",
    "ActorClassOf",
    "CallInActor",
    "Held",
    "Untold",
    "creates",
    "describes",
    "submits",
]

#: mypy takes this name as true.
MYPY = False

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
V = TypeVar("V")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
P = ParamSpec("P")
Q = ParamSpec("Q")


class Untold:
    """Nobody returns it: a callable fits one that does only if it doesn't tell what it returns."""


class CallInActor(Protocol[T_co]):
    """``handle.__ray_call__``: runs any function in the actor, with its object first."""

    def remote(
        self,
        function: Callable[Concatenate[T_co, P], R],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> ObjectRef[R]:
        """Run ``function(object, *args, **kwargs)`` in the actor."""


if MYPY or not TYPE_CHECKING:

    def submits(function: F) -> F:
        """Mark the ``remote`` of what submits calls."""
        return function

    def creates(function: F) -> F:
        """Mark the ``remote`` of what creates actors."""
        return function

    class MethodDecorator(Protocol):
        """What ``method`` is."""

        @overload
        def __call__(self, function: F, /) -> F: ...
        @overload
        def __call__(self, **options: Any) -> Callable[[F], F]: ...

    def describes(function: MethodDecorator) -> MethodDecorator:
        """Mark ``method``."""
        return function

    class Held(Generic[T_co]):
        """What handles are: see ``ActorProxy``."""

        __slots__ = ()

    ActorClassOf: TypeAlias = "ActorClass[T]"

    if MYPY:
        # Classes under ``@remote`` stay classes to mypy; the plugin makes this their metaclass.
        class ActorType(type, ActorClass[Any]):
            """What a class is that is an actor class besides."""

else:
    A = TypeVar("A")
    B = TypeVar("B")
    C = TypeVar("C")
    D = TypeVar("D")
    E = TypeVar("E")

    class Call(Generic[P, R_co]):
        """A call.  Its first parameters take refs as well, given by position."""

        @overload
        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
        @overload
        def __call__(
            self: Call[Concatenate[A, Q], R],
            a: A | ObjectRef[A],
            /,
            *args: Q.args,
            **kwargs: Q.kwargs,
        ) -> R: ...
        @overload
        def __call__(
            self: Call[Concatenate[A, B, Q], R],
            a: A | ObjectRef[A],
            b: B | ObjectRef[B],
            /,
            *args: Q.args,
            **kwargs: Q.kwargs,
        ) -> R: ...
        @overload
        def __call__(
            self: Call[Concatenate[A, B, C, Q], R],
            a: A | ObjectRef[A],
            b: B | ObjectRef[B],
            c: C | ObjectRef[C],
            /,
            *args: Q.args,
            **kwargs: Q.kwargs,
        ) -> R: ...
        @overload
        def __call__(
            self: Call[Concatenate[A, B, C, D, Q], R],
            a: A | ObjectRef[A],
            b: B | ObjectRef[B],
            c: C | ObjectRef[C],
            d: D | ObjectRef[D],
            /,
            *args: Q.args,
            **kwargs: Q.kwargs,
        ) -> R: ...
        @overload
        def __call__(
            self: Call[Concatenate[A, B, C, D, E, Q], R],
            a: A | ObjectRef[A],
            b: B | ObjectRef[B],
            c: C | ObjectRef[C],
            d: D | ObjectRef[D],
            e: E | ObjectRef[E],
            /,
            *args: Q.args,
            **kwargs: Q.kwargs,
        ) -> R: ...
        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    class Creating(Protocol[P, T_co]):
        """What wraps a class: the class, as a callable, tells the constructor's parameters."""

        @property
        def __wrapped__(self) -> Callable[P, T_co]: ...

    class submits:  # noqa: N801 - a decorator
        """``remote`` of what has its parameters and result in its type."""

        def __init__(self, function: Callable[..., Any]) -> None: ...
        @overload
        def __get__(
            self, instance: RemoteFunction[P, R] | ActorMethod[P, R], owner: Any
        ) -> Call[P, R]: ...
        @overload
        def __get__(self, instance: None, owner: Any) -> Any: ...
        def __get__(self, instance: Any, owner: Any) -> Any: ...

    class creates:  # noqa: N801 - a decorator
        """``remote`` of what has the class in its type."""

        def __init__(self, function: Callable[..., Any]) -> None: ...
        @overload
        def __get__(self, instance: None, owner: Any) -> Any: ...
        @overload
        def __get__(
            self, instance: type[Actor[T]] | ActorClass[Actor[T]], owner: Any
        ) -> Creation[T]: ...
        @overload
        def __get__(self, instance: Creating[P, T], owner: Any) -> Call[P, ActorHandle[T]]: ...
        def __get__(self, instance: Any, owner: Any) -> Any: ...

    class Creation(Generic[T]):
        """``remote`` of a class under ``@remote``."""

        @property
        def __wrapped__(self) -> type[T]: ...
        @creates
        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    class ActorType(type, ActorClass[Any]):
        """What a class under ``@remote`` is: an actor class."""

        @creates
        def remote(cls, *args: Any, **kwargs: Any) -> Any: ...
        def options(cls: type[Actor[T]], **changes: Any) -> type[Actor[T]]: ...
        def __call__(cls, *, instead_of_calling_it_use_remote: Never) -> NoReturn: ...

    class Actor(Protocol[T_co], metaclass=ActorType):
        """What the name of a class under ``@remote`` means in annotations.

        As a protocol without members it fits the class's own objects, so that a handle to one
        can be passed where ``ActorHandle[Class]`` is wanted.
        """

    ActorClassOf: TypeAlias = type[Actor[T]]

    class Held(Generic[T_co]):
        """What a proxy is besides the class: it must not tell of methods."""

        def __getattr__(self, name: str) -> NoReturn: ...

    class Method(Generic[P, V, R_co]):
        """A method under ``@method``: inside the class a method, through a proxy a remote one."""

        @overload
        def __get__(self, instance: None, owner: Any, /) -> ActorMethod[P, R_co]: ...
        @overload
        def __get__(self, instance: object, owner: Any, /) -> Callable[P, V]: ...
        def __get__(self, instance: Any, owner: Any, /) -> Any: ...

    class MethodDecorator:
        """What ``method`` is, and what ``method(option=…)`` returns."""

        @overload
        def __call__(
            self, method: Callable[Concatenate[Any, P], Untold], /
        ) -> Method[P, Any, Any]: ...
        @overload
        def __call__(
            self, method: Callable[Concatenate[Any, P], Coroutine[A, B, V]], /
        ) -> Method[P, Coroutine[A, B, V], ObjectRef[V]]: ...
        @overload
        def __call__(
            self, method: Callable[Concatenate[Any, P], Iterator[V]], /
        ) -> Method[P, Iterator[V], ObjectRefGenerator[V]]: ...
        @overload
        def __call__(
            self, method: Callable[Concatenate[Any, P], AsyncIterator[V]], /
        ) -> Method[P, AsyncIterator[V], ObjectRefGenerator[V]]: ...
        @overload
        def __call__(
            self, method: Callable[Concatenate[Any, P], V], /
        ) -> Method[P, V, ObjectRef[V]]: ...
        @overload
        def __call__(
            self, *, num_returns: Literal[0], **options: Any
        ) -> Callable[[Callable[Concatenate[Any, P], V]], Method[P, V, None]]: ...
        @overload
        def __call__(
            self, *, num_returns: Literal[1, "streaming"], **options: Any
        ) -> MethodDecorator: ...
        @overload
        def __call__(
            self, *, num_returns: int, **options: Any
        ) -> Callable[[Callable[Concatenate[Any, P], V]], Method[P, V, list[ObjectRef[Any]]]]: ...
        @overload
        def __call__(self, **options: Any) -> MethodDecorator: ...
        def __call__(self, *args: Any, **options: Any) -> Any: ...

    def describes(function: object) -> MethodDecorator:
        """Mark ``method``."""
