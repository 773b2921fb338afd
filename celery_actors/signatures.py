"""Signatures that travel: a handle checks a call's arguments without having the class."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ParameterList", "parameters_of"]

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


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
        """Whether so many positional arguments, and no others, are known to fit."""
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
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name}{signature}: {error}") from None

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
