"""Options are checked where they are written; signatures where a call is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

import celery_actors as ray
from celery_actors.options import METHOD_OPTIONS, ActorOptions, MethodOptions, TaskOptions
from celery_actors.signatures import ParameterList, parameters_of


@pytest.mark.parametrize("kind", [ActorOptions, TaskOptions])
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"num_cpus": -1}, ValueError),
        ({"num_gpus": 1.5}, ValueError),
        ({"num_gpus": True}, TypeError),
        ({"num_cpus": "2"}, TypeError),
        ({"num_cpus": 0.00001}, ValueError),
        ({"memory": -5}, ValueError),
        ({"resources": {"CPU": 1}}, ValueError),
        ({"resources": {"GPU": 1}}, ValueError),
        ({"resources": {"disk": -1}}, ValueError),
        ({"no_such_option": 1}, TypeError),
    ],
)
def test_what_makes_no_sense(kind: Any, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        kind().updated(**options)


def test_messages_say_what_to_do_instead() -> None:
    with pytest.raises(ValueError, match="use num_gpus= instead"):
        ActorOptions(resources={"GPU": 1})
    with pytest.raises(ValueError, match="whole number"):
        TaskOptions(num_gpus=2.5)
    with pytest.raises(
        TypeError, match="'lifetme' is no option of an actor; did you mean lifetime"
    ):
        ActorOptions().updated(lifetme="detached")
    with pytest.raises(TypeError, match="'zzz' is no option of a method; known: num_returns"):
        MethodOptions().updated(zzz=1)
    with pytest.raises(ValueError, match="'detached'"):
        ActorOptions(lifetime="for ever")
    for value in (0, -2):
        with pytest.raises(ValueError, match="max_pending_calls"):
            ActorOptions(max_pending_calls=value)
    for returns in (-1, 65536, 1.5, True, "2"):
        with pytest.raises(ValueError, match="num_returns"):
            MethodOptions(num_returns=returns)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_retries"):
        TaskOptions(max_retries=-2)


def test_what_is_requested_by_default_and_by_options() -> None:
    assert ActorOptions().requested() == {}
    assert TaskOptions().requested() == {"CPU": 10_000}
    assert TaskOptions(num_cpus=0).requested() == {}
    options = ActorOptions(num_cpus=0.5, num_gpus=2, memory=100, resources={"disk": 0.0001})
    assert options.requested() == {
        "CPU": 5_000,
        "GPU": 20_000,
        "memory": 1_000_000,
        "disk": 1,
    }


def test_options_are_copied_not_changed() -> None:
    before = ActorOptions(num_cpus=1)
    after = before.updated(num_gpus=1)
    assert (before.num_gpus, after.num_cpus, after.num_gpus) == (None, 1, 1)


def test_remote_refuses_what_it_cannot_take() -> None:
    def function() -> None: ...

    with pytest.raises(TypeError, match="on a class or a function"):
        ray.remote(5)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="without any, use @remote"):
        ray.remote()
    with pytest.raises(TypeError, match="remote already"):
        ray.remote(ray.remote(function))
    with pytest.raises(TypeError, match=r"@remote\(option"):
        ray.remote(function, num_cpus=1)  # type: ignore[call-overload]


def test_method_is_bare_or_has_options() -> None:
    class Worker:
        @ray.method
        def bare(self) -> int:
            return 1

        @ray.method(num_returns=2)
        def pair(self) -> tuple[int, int]:
            return 1, 2

    assert Worker().bare() == 1
    assert getattr(Worker.bare, METHOD_OPTIONS) == MethodOptions()
    assert getattr(Worker.pair, METHOD_OPTIONS) == MethodOptions(num_returns=2)
    with pytest.raises(TypeError, match=r"use @method or @method\(option=…\)"):
        ray.method(5)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"use @method or @method\(option=…\)"):
        ray.method(Worker.bare, num_returns=2)  # type: ignore[call-overload]


# -- signatures -----------------------------------------------------------------------------


class Methods:
    def plain(self, a: int, b: int = 2) -> None: ...

    def keywords(self, a: int, *, b: int, c: int = 3) -> None: ...

    def any(self, *args: int, **kwargs: int) -> None: ...

    def positional(self, a: int, /, b: int) -> None: ...


CASES: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = [
    (getattr(Methods, name), args, kwargs)
    for name in ("plain", "keywords", "any", "positional")
    for args in ((), (1,), (1, 2), (1, 2, 3))
    for kwargs in ({}, {"a": 1}, {"b": 1}, {"a": 1, "b": 2}, {"b": 1, "c": 2}, {"z": 1})
]


@pytest.mark.parametrize(("method", "args", "kwargs"), CASES)
def test_fits_exactly_where_the_call_itself_would(
    method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    parameters = parameters_of(method, skip_first=True)
    try:
        method(Methods(), *args, **kwargs)
    except TypeError:
        with pytest.raises(TypeError, match=rf"Methods\.{method.__name__}\("):
            parameters.check(f"Methods.{method.__name__}", args, kwargs)
    else:
        parameters.check("Methods.method", args, kwargs)


def test_what_tells_nothing_of_its_parameters_takes_all() -> None:
    ParameterList(None).check("anything", (1, 2, 3), {"z": 1})


def test_defaults_do_not_travel() -> None:
    import pickle
    import threading

    def function(a: int, lock: Any = threading.Lock()) -> None: ...  # noqa: B008

    parameters = pickle.loads(pickle.dumps(parameters_of(function)))
    parameters.check("function", (1,), {})
    with pytest.raises(TypeError, match=r"function\(a, lock=…\)"):
        parameters.check("function", (), {})


def test_an_unknown_keyword_is_named_before_what_is_missing() -> None:
    def add(number: int) -> None: ...

    with pytest.raises(TypeError, match=r"unexpected keyword argument 'nummber': it takes number"):
        parameters_of(add).check("add", (), {"nummber": 1})


@pytest.mark.parametrize("kind", [ActorOptions, TaskOptions, MethodOptions])
def test_none_stands_for_an_options_default(kind: type[Any]) -> None:
    nothing: dict[str, Any] = dict.fromkeys((each.name for each in fields(kind)), None)
    assert kind(**nothing) == kind() == kind().updated(**nothing)


def test_a_function_that_is_a_coroutine_is_no_task() -> None:
    async def function() -> None: ...

    with pytest.raises(ValueError, match="async def"):
        ray.remote(function)
