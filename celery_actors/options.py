"""Options of actors, tasks and methods: validated where they are written."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

__all__ = ["ActorOptions", "MethodOptions", "TaskOptions", "units"]


def units(amount: float) -> int:
    """Return an amount of a resource in units of 1/10000."""
    return round(amount * 10_000)


def _check_amount(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if value < 0:
        raise ValueError(f"{name} must not be negative, got {value}")
    if units(value) == 0 and value != 0:
        raise ValueError(f"{name}={value} is finer than 1/10000")


def _check_resources(options: ActorOptions | TaskOptions) -> None:
    for name in ("num_cpus", "num_gpus", "memory"):
        value = getattr(options, name)
        if value is not None:
            _check_amount(name, value)
    if options.num_gpus is not None and options.num_gpus > 1 and options.num_gpus % 1:
        raise ValueError(
            f"num_gpus={options.num_gpus}: more than one GPU must be a whole number (a part of a "
            "GPU is for sharing one)"
        )
    for name, value in options.resources.items():
        if name in ("CPU", "GPU", "memory"):
            instead = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}[name]
            raise ValueError(f"use {instead}= instead of resources={{{name!r}: …}}")
        _check_amount(f"resources[{name!r}]", value)


def _resources(options: ActorOptions | TaskOptions, default_cpus: float) -> dict[str, int]:
    cpus = default_cpus if options.num_cpus is None else options.num_cpus
    wanted = {"CPU": cpus, "GPU": options.num_gpus or 0, "memory": options.memory or 0}
    wanted.update(options.resources)
    return {name: units(amount) for name, amount in wanted.items() if amount}


@dataclass(frozen=True, slots=True)
class ActorOptions:
    """Options of ``@remote`` on a class, and of ``Class.options()``.

    :ivar num_cpus: CPUs held while the actor lives; default 0.
    :ivar num_gpus: GPUs; a fraction shares one, more than one must be whole.
    :ivar memory: bytes, counted for placement.
    :ivar resources: custom resources by name.
    :ivar max_pending_calls: calls that one handle may have unresolved, -1: no bound of its
        own (the window of the process still holds callers back).
    :ivar lifetime: ``None``, or ``"detached"``: it outlives its handles and its driver.
    """

    num_cpus: float | None = None
    num_gpus: float | None = None
    memory: float | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    max_pending_calls: int = -1
    lifetime: str | None = None

    def __post_init__(self) -> None:
        _check_resources(self)
        if self.lifetime not in (None, "non_detached", "detached"):
            raise ValueError(f"lifetime must be None or 'detached', not {self.lifetime!r}")
        if self.max_pending_calls == 0 or self.max_pending_calls < -1:
            raise ValueError("max_pending_calls must be positive, or -1 for no bound")

    def updated(self, **changes: Any) -> ActorOptions:
        """Return these options with some changed.

        :raises TypeError: there is no such option; the message names the near ones.
        """
        _check_names(type(self), changes, "an actor")
        return replace(self, **changes)

    def requested(self) -> dict[str, int]:
        """Return what the actor holds, in units of 1/10000."""
        return _resources(self, 0)


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """Options of ``@remote`` on a function, and of ``function.options()``.

    :ivar num_cpus: CPUs held while the task runs; default 1 (as Ray's).
    :ivar num_returns: number of return values; 0: none is kept.
    :ivar max_retries: how often it is tried again when its process dies; -1: always.
    """

    num_cpus: float | None = None
    num_gpus: float | None = None
    memory: float | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    num_returns: int = 1
    max_retries: int = 3

    def __post_init__(self) -> None:
        _check_resources(self)
        _check_returns(self.num_returns)
        if self.max_retries < -1:
            raise ValueError("max_retries must be -1 (always) or more")

    def updated(self, **changes: Any) -> TaskOptions:
        """Return these options with some changed.

        :raises TypeError: there is no such option; the message names the near ones.
        """
        _check_names(type(self), changes, "a task")
        return replace(self, **changes)

    def requested(self) -> dict[str, int]:
        """Return what the task holds, in units of 1/10000."""
        return _resources(self, 1)


@dataclass(frozen=True, slots=True)
class MethodOptions:
    """Options of ``@method`` and of ``handle.method.options()``."""

    num_returns: int = 1

    def __post_init__(self) -> None:
        _check_returns(self.num_returns)

    def updated(self, **changes: Any) -> MethodOptions:
        """Return these options with some changed.

        :raises TypeError: there is no such option; the message names the near ones.
        """
        _check_names(type(self), changes, "a method")
        return replace(self, **changes)


def _check_returns(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 65536:
        raise ValueError(f"num_returns must be a whole number of 0 or more, not {value!r}")


def _check_names(kind: type, changes: Mapping[str, Any], what: str) -> None:
    known = [f.name for f in fields(kind)]
    for name in changes:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=2)
            hint = (
                f"; did you mean {' or '.join(near)}?" if near else f"; known: {', '.join(known)}"
            )
            raise TypeError(f"{name!r} is no option of {what}{hint}")
