"""Errors on their way: whatever the user's class does, the getter gets a TaskError."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from celery_actors.exceptions import (
    ActorDiedError,
    RayError,
    TaskError,
    carried_by_future,
    told_by,
)
from celery_actors.ids import object_id
from celery_actors.protocol.signing import Signer
from celery_actors.store.codec import Codec
from celery_actors.tracebacks import formatted, shown, text_of
from celery_actors.worker.activity import Activity, failure_of
from celery_actors.worker.plain_messages import PlainCall
from celery_actors.worker.raised import Ending, argument_value, is_result, task_error

OID = object_id(b"12345678", 1)


def _refuse(*_: Any) -> Any:
    raise AssertionError("no shared memory")


CODEC = Codec(Signer(b"k" * 32), _refuse, 1 << 40, _refuse)


class Stop(BaseException):
    pass


class OnlyKeyword(Exception):
    def __init__(self, *, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class WithoutArguments(Exception):
    def __init__(self) -> None:
        super().__init__("one", "more")


class Elsewhere(Exception):
    """Can be unpickled where it was raised, and not where it is got."""

    def __reduce__(self) -> Any:
        return _elsewhere, ()


def _elsewhere() -> Elsewhere:
    if os.environ.get("ELSEWHERE"):
        raise Stop("not here")
    return Elsewhere("x")


class NoException(Exception):
    def __reduce__(self) -> Any:
        return str, ("a text",)


class Hostile(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise Stop(f"no {name}")

    def __str__(self) -> str:
        raise Stop("no text")

    def __repr__(self) -> str:
        raise Stop("no repr")

    def __bool__(self) -> bool:
        raise Stop("no truth")

    def __reduce_ex__(self, _protocol: Any) -> Any:
        raise Stop("no pickle")


def raised(make: Callable[[], BaseException]) -> BaseException:
    try:
        raise make()
    except BaseException as error:  # noqa: BLE001 - what this is about
        return error


def got(error: BaseException) -> TaskError:
    blob = CODEC.encode_error(OID, task_error("Shop.buy", error))
    with pytest.raises(TaskError) as caught:
        CODEC.load(OID, blob)
    return caught.value


@pytest.mark.parametrize(
    "make",
    [
        lambda: OnlyKeyword(status=4),
        WithoutArguments,
        Elsewhere,
        lambda: Stop("x"),
        lambda: AttributeError("x", name="y"),
        lambda: ActorDiedError("gone", "ab"),
    ],
    ids=["keyword", "none", "elsewhere", "base", "attribute", "ours"],
)
def test_the_getter_catches_the_users_class(make: Callable[[], BaseException]) -> None:
    error = raised(make)
    found = got(error)
    assert isinstance(found, type(error))
    assert type(error).__name__ in str(found)
    assert "raise make()" in str(found)


def test_attributes_survive_without_the_constructor() -> None:
    assert got(raised(lambda: OnlyKeyword(status=4))).status == 4  # type: ignore[attr-defined]
    assert got(raised(lambda: AttributeError("x", name="y"))).name == "y"  # type: ignore[attr-defined]


def test_what_can_not_be_unpickled_at_the_getter_leaves_its_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blob = CODEC.encode_error(OID, task_error("Shop.buy", raised(Elsewhere)))
    monkeypatch.setenv("ELSEWHERE", "1")
    with pytest.raises(TaskError, match="Elsewhere") as caught:
        CODEC.load(OID, blob)
    assert type(caught.value) is TaskError
    assert type(caught.value.cause) is RayError
    assert "can't be unpickled here: not here" in str(caught.value.cause)
    assert "raise make()" in str(caught.value.cause)


def _recursive() -> BaseException:
    error = ValueError("itself")
    error.args = (error,)
    return error


@pytest.mark.parametrize(
    "make",
    [
        Hostile,
        NoException,
        _recursive,
        lambda: ValueError(threading.Lock()),
    ],
    ids=["hostile", "no exception", "recursive", "lock"],
)
def test_what_can_not_be_pickled_leaves_its_text_and_why(
    make: Callable[[], BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    error = raised(make)
    with caplog.at_level(logging.WARNING):
        found = got(error)
    name = type(error).__name__
    assert type(found) is TaskError
    assert name in str(found)
    assert "raise make()" in str(found)
    assert type(found.cause) is RayError
    assert f"the exception {name} that Shop.buy raised can't be pickled: " in str(found.cause)
    assert "raise make()" in str(found.cause)
    (record,) = caplog.records
    assert "can't be pickled" in record.getMessage()


def test_why_an_exception_can_not_be_pickled_names_the_part() -> None:
    assert "'_thread.lock'" in str(got(raised(lambda: ValueError(threading.Lock()))).cause)


def test_long_and_circular_chains_of_causes_are_cut() -> None:
    error: BaseException = ValueError("first")
    for number in range(2000):
        after = KeyError(number)
        after.__context__ = error
        error = after
    assert formatted(error).count("KeyError") <= 50
    assert "1999" in str(got(error))
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert "one" in str(got(one))
    assert len(formatted(ValueError("x" * 10_000_000))) < 300_000


class NoClass(Exception):
    @property
    def __class__(self) -> Any:
        raise Stop("no class")


class _Text(str):
    def __format__(self, _spec: str) -> str:
        raise Stop("no format")


class OddText(Exception):
    def __str__(self) -> str:
        return _Text("odd")

    def __reduce_ex__(self, _protocol: Any) -> Any:
        raise OddText


def test_nothing_of_a_users_class_is_asked_for_but_its_text() -> None:
    found = got(raised(NoClass))
    assert issubclass(type(found), NoClass)
    assert carried_by_future(found) is found
    assert "odd" in str(got(raised(OddText)).cause)
    error = raised(lambda: ValueError("x"))
    error.__cause__ = Hostile()
    assert "ValueError: x" in formatted(error)
    assert "Hostile" in formatted(error)


def test_sys_exit_with_any_object_is_a_crash() -> None:
    hostile = raised(Hostile)
    assert Ending.by(SystemExit(hostile), "f").crash == 1
    assert Ending.by(SystemExit(np.array([0, 0])), "f").crash == 1


def test_tools_are_shown_a_hostile_error() -> None:
    error = raised(Hostile)
    assert "Stop" in text_of(error)
    assert "Stop" in shown(error)
    activity = Activity("host", "queue", 1, str)
    activity.events_on = True
    call = PlainCall(1, "id", "name", [], {}, None, {}, {})
    activity.begin(call)
    activity.end(call, task_error("f", error), 0.1)
    kind, fields = activity.events[-1]
    assert kind == "task-failed"
    assert "Hostile" in fields["traceback"]
    assert failure_of(error) == failure_of(task_error("f", error))


def test_sys_exit_is_a_crash_unless_its_status_is_0() -> None:
    assert Ending.by(SystemExit(), "f").crash is None
    assert Ending.by(SystemExit(0), "f").crash is None
    assert Ending.by(SystemExit(3), "f").crash == 3
    assert Ending.by(SystemExit(256), "f").crash == 1, "a crash has no status 0"
    assert Ending.by(SystemExit("text"), "f").crash == 1
    assert not is_result(SystemExit(0), cancelled=False)
    assert not is_result(KeyboardInterrupt(), cancelled=True)
    assert is_result(KeyboardInterrupt(), cancelled=False)


def _fail(error: BaseException) -> None:
    raise error


def test_the_error_of_a_nested_get_tells_of_both_calls() -> None:
    blob = CODEC.encode_error(OID, task_error("Inner.call", raised(lambda: Stop("x"))))
    with pytest.raises(TaskError) as caught:
        CODEC.load(OID, blob)  # as `get` in Shop.buy does
    found = got(caught.value)
    assert isinstance(found, Stop)
    assert type(told_by(found).cause) is Stop
    text = str(found)
    assert text.startswith("Shop.buy raised:\nTraceback")
    assert "CODEC.load(OID, blob)  # as" in text
    assert "codec.py" not in text, "our own frames are no help to the user"
    assert text.index("Inner.call raised:") < text.index("raise make()")


@pytest.mark.parametrize("make", [lambda: Stop("x"), lambda: ActorDiedError("gone", "ab")])
def test_the_error_of_a_ref_argument_names_the_call_that_waited(
    make: Callable[[], BaseException],
) -> None:
    failed = got(raised(make))
    with pytest.raises(TaskError) as caught:
        argument_value(lambda _oid, _blob: _fail(failed), OID, None)
    found = got(caught.value)
    assert isinstance(found, type(make()))
    text = str(found)
    assert text.startswith("Shop.buy raised:\n  At least one of the arguments of this call could")
    assert type(make()).__name__ in text


def test_an_error_that_was_got_elsewhere_is_not_told_as_one_of_an_argument() -> None:
    assert "arguments" not in str(task_error("Shop.buy", raised(lambda: Stop("x"))))
