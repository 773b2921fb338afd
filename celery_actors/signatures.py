"""Signatures that travel: a handle checks a call's arguments without having the class."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = [
    "Member",
    "ParameterList",
    "generates",
    "is_asyncio",
    "members_of",
    "parameters_of",
    "unwrapped",
]

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class _Default:
    """Stands for a default value, which need not travel."""

    def __repr__(self) -> str:
        return "…"


@dataclass(frozen=True, slots=True)
class ParameterList:
    """The parameters of a method or function: ``(name, kind, has a default)`` each.

    ``None`` where a callable tells nothing of its parameters (some written in C).
    """

    parameters: tuple[tuple[str, int, bool], ...] | None
    positional: tuple[int, int] | None = field(init=False, repr=False, compare=False)
    """The least and most positional arguments, where nothing else has to be looked at."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "positional", self._positional())

    def fits(self, given: int) -> bool:
        """Whether ``given`` positional arguments, and no others, are known to fit."""
        positional = self.positional
        return positional is not None and positional[0] <= given <= positional[1]

    def check(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Check that the arguments fit.

        :raises TypeError: they don't; the message names the function.
        """
        parameters = self.parameters
        if parameters is None:
            return
        if not kwargs and self.fits(len(args)):
            return
        signature = inspect.Signature(
            [
                inspect.Parameter(
                    parameter,
                    inspect._ParameterKind(kind),
                    default=_Default() if has_default else inspect.Parameter.empty,
                )
                for parameter, kind, has_default in parameters
            ]
        )
        self._check_names(f"{name}{signature}", kwargs)
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name}{signature}: {error}") from None

    def _check_names(self, shown: str, kwargs: Mapping[str, Any]) -> None:
        """Refuse an unknown keyword first: a misspelt one is also a missing one."""
        assert self.parameters is not None
        known = {each for each, kind, _ in self.parameters if kind in _BY_NAME}
        if any(kind == inspect.Parameter.VAR_KEYWORD for _, kind, _ in self.parameters):
            return
        for each in kwargs:
            if each not in known:
                takes = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
                raise TypeError(f"{shown}: got an unexpected keyword argument {each!r}: {takes}")

    def _positional(self) -> tuple[int, int] | None:
        parameters = self.parameters
        if parameters is None or any(kind not in _POSITIONAL for _, kind, _ in parameters):
            return None
        return sum(not has_default for _, _, has_default in parameters), len(parameters)


def parameters_of(function: Callable[..., Any], skip_first: bool = False) -> ParameterList:
    """Return the parameters of a callable; ``skip_first`` leaves ``self`` out."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return ParameterList(None)
    if skip_first and parameters and parameters[0].kind in _POSITIONAL:
        parameters = parameters[1:]
    return ParameterList(
        tuple((p.name, int(p.kind), p.default is not inspect.Parameter.empty) for p in parameters)
    )


class Member(NamedTuple):
    """A method of a class.

    :ivar raw: as it stands in the class, e.g. a ``staticmethod``.
    :ivar function: what is called, with the object first unless ``raw`` is a ``staticmethod``.
    """

    name: str
    raw: Any
    function: Callable[..., Any]


def members_of(kind: type) -> Iterator[Member]:
    """Return the methods of a class: what can be called on its objects, nested classes excepted.

    Attributes are looked up without running them: a property or another descriptor of the user
    may work on objects only.
    """
    for name in dir(kind):
        raw = inspect.getattr_static(kind, name, None)
        if isinstance(raw, type):
            continue
        function = _function_of(kind, raw)
        if callable(function):
            yield Member(name, raw, function)


def _function_of(kind: type, raw: Any) -> Any:
    if isinstance(raw, (classmethod, staticmethod)):
        return raw.__func__
    if callable(raw):
        return raw
    describes = type(raw)
    if not hasattr(describes, "__get__") or hasattr(describes, "__set__"):
        return None
    try:  # partialmethod, singledispatchmethod, descriptors of the user that give functions
        given = raw.__get__(None, kind)
    except Exception:  # noqa: BLE001 - the user's: one that works on objects only is no method
        return None
    return given if inspect.isroutine(given) else None


def unwrapped(function: Any) -> Iterator[Any]:
    """Return a callable and what it wraps, the outermost first.

    Looks through ``functools.wraps``, ``partial`` and ``partialmethod``.
    """
    seen: set[int] = set()
    while function is not None and id(function) not in seen:
        yield function
        seen.add(id(function))
        if isinstance(function, (functools.partial, functools.partialmethod)):
            function = function.func
        elif isinstance(function, (classmethod, staticmethod)):
            function = function.__func__
        else:
            inside = getattr(function, "__wrapped__", None)
            # Under which a partialmethod leaves itself in the function that it gives.
            for attribute in ("__partialmethod__", "_partialmethod"):
                inside = getattr(function, attribute, None) if inside is None else inside
            function = inside


def generates(function: Any) -> bool:
    """Whether a callable yields its values, itself or what it wraps."""
    return any(
        inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each)
        for each in unwrapped(function)
    )


def is_asyncio(kind: type) -> bool:
    """Whether a class makes asyncio actors: it has an ``async def`` method.

    What a method wraps does not count (as in Ray): a wrapper may run the coroutine itself.
    """
    return any(
        inspect.iscoroutinefunction(member.function) or inspect.isasyncgenfunction(member.function)
        for member in members_of(kind)
    )
