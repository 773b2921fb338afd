"""Signatures that travel: a handle checks a call's arguments without having the class."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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

    def check(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Check that the arguments fit.

        :raises TypeError: they don't; the message names the function.
        """
        parameters = self.parameters
        if parameters is None:
            return
        if not kwargs and self._plain(len(args)):
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

    def _plain(self, given: int) -> bool:
        """Whether so many positional arguments fit, in the common simple case."""
        least = 0
        most = 0
        assert self.parameters is not None
        for _, kind, has_default in self.parameters:
            if kind not in _POSITIONAL:
                return False
            most += 1
            least += not has_default
        return least <= given <= most


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
