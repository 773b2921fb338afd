"""Options of actors, tasks and methods: validated where they are written."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any

from celery_actors.runtime_env import RuntimeEnv
from celery_actors.scheduling import check_strategy, label_rules, of_former_options

__all__ = [
    "METHOD_OPTIONS",
    "STREAMING",
    "ActorOptions",
    "MethodOptions",
    "TaskOptions",
    "UnknownOption",
    "units",
]


#: The attribute in which ``@method`` leaves a method's options.
METHOD_OPTIONS = "__celery_actors_method__"

#: ``num_returns`` of a generator: its one value is a list of refs to what it yielded.
DYNAMIC = "dynamic"

#: ``num_returns`` of a generator: each value is there as it is yielded.
STREAMING = "streaming"


class UnknownOption(TypeError, ValueError):
    """There is no such option.  A ``TypeError`` as of any callable, a ``ValueError`` as Ray's."""


def units(amount: float) -> int:
    """Return an amount of a resource in units of 1/10000."""
    return round(amount * 10_000)


def _fill_in(options: ActorOptions | TaskOptions | MethodOptions) -> None:
    """Put the default where an option is given as ``None`` (as Ray)."""
    for each in fields(options):
        if getattr(options, each.name) is None:
            made = each.default_factory
            default = each.default if made is MISSING else made()
            object.__setattr__(options, each.name, default)


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
    :ivar max_restarts: how often it is restarted when its process dies; -1: always.
    :ivar max_task_retries: how often a call that the death of its process interrupted runs
        again on the next incarnation; -1: always.  0: it raises ``ActorUnavailableError``.
    :ivar max_pending_calls: calls that one handle may have unresolved, -1: no bound of its
        own (the window of the process still holds callers back).
    :ivar max_concurrency: calls that run at the same time; default 1, of a class with an
        ``async def`` method 1000.
    :ivar concurrency_groups: name to the number of calls that run at the same time in it.
    :ivar name: under which ``get_actor`` finds it, unique in its namespace.
    :ivar namespace: of the name; default: that of ``init()``.
    :ivar get_if_exists: return the actor of that name if there is one.
    :ivar lifetime: ``None``, or ``"detached"``: it outlives its handles and its driver.
    :ivar runtime_env: see :class:`celery_actors.runtime_env.RuntimeEnv`.
    :ivar scheduling_strategy: ``"DEFAULT"``, ``"SPREAD"`` or an object of
        :mod:`celery_actors.util.scheduling_strategies`.
    :ivar label_selector: labels that its node must have, as ``{"zone": "a"}``; values also
        ``"!a"``, ``"in(a,b)"``, ``"!in(a,b)"``.
    :ivar enable_task_events: accepted for Ray's programs: events follow the worker's ``-E``.
    """

    num_cpus: float | None = None
    num_gpus: float | None = None
    memory: float | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    max_restarts: int = 0
    max_task_retries: int = 0
    max_pending_calls: int = -1
    max_concurrency: int | None = None
    concurrency_groups: Mapping[str, int] = field(default_factory=dict)
    name: str | None = None
    namespace: str | None = None
    get_if_exists: bool = False
    lifetime: str | None = None
    runtime_env: Mapping[str, Any] | None = None
    scheduling_strategy: Any = None
    label_selector: Mapping[str, str] | None = None
    enable_task_events: bool = True

    def __post_init__(self) -> None:
        _fill_in(self)
        _check_resources(self)
        check_strategy(self.scheduling_strategy)
        label_rules(self.label_selector)
        RuntimeEnv.of(self.runtime_env)
        _check_count("max_restarts", self.max_restarts, -1)
        _check_count("max_task_retries", self.max_task_retries, -1)
        if self.max_concurrency is not None:
            _check_count("max_concurrency", self.max_concurrency, 1)
        for group, limit in self.concurrency_groups.items():
            _check_count(f"concurrency_groups[{group!r}]", limit, 1)
        _check_name("name", self.name)
        _check_name("namespace", self.namespace)
        if self.get_if_exists and not self.name:
            raise ValueError("get_if_exists=True needs a name: which actor is it to be?")
        if self.lifetime not in (None, "non_detached", "detached"):
            raise ValueError(f"lifetime must be None or 'detached', not {self.lifetime!r}")
        if self.max_pending_calls == 0 or self.max_pending_calls < -1:
            raise ValueError("max_pending_calls must be positive, or -1 for no bound")

    def updated(self, **changes: Any) -> ActorOptions:
        """Return these options with some changed.

        :raises TypeError: there is no such option; the message names the near ones.
        """
        return replace(self, **_checked(type(self), of_former_options(changes), "an actor"))

    def requested(self) -> dict[str, int]:
        """Return what the actor holds, in units of 1/10000."""
        return _resources(self, 0)


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """Options of ``@remote`` on a function, and of ``function.options()``.

    :ivar num_cpus: CPUs held while the task runs; default 1 (as Ray's).
    :ivar num_returns: number of return values; 0: none is kept; ``"streaming"``: what a
        generator yields, each as it comes.  ``None``: 1, of a generator function
        ``"streaming"``.
    :ivar max_retries: how often it is tried again when its process dies; -1: always.
    :ivar retry_exceptions: try again also when it raises (one of) these; ``True``: any.
    :ivar name: under which tools show it.
    :ivar max_calls: a process that has run the function so often ends; 0: none does.
    :ivar runtime_env, scheduling_strategy, label_selector, enable_task_events: as of an actor.
    """

    num_cpus: float | None = None
    num_gpus: float | None = None
    memory: float | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    num_returns: int | str | None = None
    max_retries: int = 3
    retry_exceptions: bool | Sequence[type[BaseException]] = False
    name: str | None = None
    runtime_env: Mapping[str, Any] | None = None
    scheduling_strategy: Any = None
    label_selector: Mapping[str, str] | None = None
    max_calls: int = 0
    enable_task_events: bool = True
    _generator_backpressure_num_objects: int = -1

    def __post_init__(self) -> None:
        _fill_in(self)
        _check_resources(self)
        check_strategy(self.scheduling_strategy)
        label_rules(self.label_selector)
        RuntimeEnv.of(self.runtime_env)
        _check_returns(self.num_returns)
        _check_count("max_retries", self.max_retries, -1)
        _check_count("max_calls", self.max_calls, 0)
        _check_exceptions(self.retry_exceptions)

    def updated(self, **changes: Any) -> TaskOptions:
        """Return these options with some changed.

        :raises TypeError: there is no such option; the message names the near ones.
        """
        return replace(self, **_checked(type(self), of_former_options(changes), "a task"))

    def requested(self) -> dict[str, int]:
        """Return what the task holds, in units of 1/10000."""
        return _resources(self, 1)


@dataclass(frozen=True, slots=True)
class MethodOptions:
    """Options of ``@method`` and of ``handle.method.options()``.

    :ivar num_returns: as of a task.
    :ivar max_task_retries: as of an actor, which it overrides; ``None``: the actor's.
    :ivar retry_exceptions: run the call again, in its place, also when it raises (one of)
        these; ``True``: any.  At most ``max_task_retries`` times.
    :ivar concurrency_group: in which of the actor's groups it runs.
    :ivar name: under which tools show the call.
    """

    num_returns: int | str | None = None
    max_task_retries: int | None = None
    retry_exceptions: bool | Sequence[type[BaseException]] = False
    concurrency_group: str | None = None
    name: str | None = None
    enable_task_events: bool = True
    _generator_backpressure_num_objects: int = -1

    def __post_init__(self) -> None:
        _fill_in(self)
        _check_returns(self.num_returns)
        if self.max_task_retries is not None:
            _check_count("max_task_retries", self.max_task_retries, -1)
        _check_exceptions(self.retry_exceptions)

    def updated(self, **changes: Any) -> MethodOptions:
        """Return these options with some changed.

        :raises TypeError: there is no such option; the message names the near ones.
        """
        return replace(self, **_checked(type(self), changes, "a method"))


def _check_returns(value: Any) -> None:
    if value in (None, STREAMING, DYNAMIC):
        return
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 65536:
        raise ValueError(
            f"num_returns must be a whole number of 0 or more, or 'streaming', not {value!r}"
        )


def _check_count(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        meaning = f"{least} (no end) or more" if least < 0 else f"{least} or more"
        raise ValueError(f"{name} must be {meaning}, not {value}")


def _check_exceptions(value: Any) -> None:
    if isinstance(value, bool):
        return
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(kind, type) and issubclass(kind, BaseException) for kind in value
    ):
        raise TypeError(
            f"retry_exceptions must be True, False or a list of exception classes, not {value!r}"
        )


def _check_name(what: str, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a string, not {value!r}")
    if not value:
        raise ValueError(f"{what} must not be empty")


def _checked(kind: type, changes: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    known = [f.name for f in fields(kind)]
    for name in changes:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=2)
            hint = (
                f"; did you mean {' or '.join(near)}?" if near else f"; known: {', '.join(known)}"
            )
            raise UnknownOption(f"{name!r} is no option of {what}{hint}")
    return changes
