"""What `get` raises is the user's exception too, whatever its class wants."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import gc
import logging
import pickle
import sys
from concurrent.futures import Future
from typing import Any

import cloudpickle
import pytest

from celery_actors.client.objects import complete
from celery_actors.exceptions import ActorDiedError, RayError, TaskCancelledError, TaskError


class NeedsTwo(Exception):
    made = 0

    def __init__(self, one: int, two: int) -> None:
        NeedsTwo.made += 1
        super().__init__(one)
        self.two = two


class NeedsKeyword(Exception):
    def __new__(cls, *args: Any, key: int) -> NeedsKeyword:
        return super().__new__(cls, *args)

    def __init__(self, *args: Any, key: int) -> None:
        super().__init__(*args)
        self.key = key


class Slotted(OSError):
    __slots__ = ("extra",)


def error_of(cause: BaseException) -> Any:
    return TaskError("Shop.buy", "Traceback: line 7", cause).as_instanceof_cause()


@pytest.mark.parametrize(
    "cause",
    [
        ValueError(),
        KeyError("k"),
        NeedsTwo(1, 2),
        NeedsKeyword(1, key=3),
        Slotted(2, "no", "file"),
        FileNotFoundError(2, "no", "file"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        StopIteration(4),
        ImportError("x", name="y"),
    ],
    ids=lambda cause: type(cause).__name__,
)
def test_is_an_instance_of_the_causes_class(cause: BaseException) -> None:
    error = error_of(cause)
    assert isinstance(error, type(cause))
    assert isinstance(error, TaskError)
    assert isinstance(error, RayError)
    assert error.cause is cause
    assert error.args == cause.args
    assert error.function_name == "Shop.buy"
    assert str(error) == "Shop.buy raised:\nTraceback: line 7"
    assert type(error).__name__ == f"TaskError({type(cause).__name__})"


def test_attributes_are_those_of_the_cause() -> None:
    assert error_of(NeedsTwo(1, 2)).two == 2
    assert error_of(NeedsKeyword(1, key=3)).key == 3
    error = error_of(FileNotFoundError(2, "no", "file"))
    assert (error.errno, error.strerror, error.filename) == (2, "no", "file")


def test_errors_of_one_class_leave_nothing_to_the_collector() -> None:
    error_of(Demanding("x"))
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        for _ in range(100):
            error_of(Demanding("x"))
        assert len(gc.get_objects()) - before < 50
    finally:
        gc.enable()


def test_the_users_constructor_is_not_run_again() -> None:
    cause = NeedsTwo(1, 2)
    made = NeedsTwo.made
    error_of(cause)
    assert NeedsTwo.made == made


def test_pickles_as_itself() -> None:
    error = pickle.loads(pickle.dumps(error_of(KeyError("k"))))
    assert isinstance(error, KeyError)
    assert isinstance(error, TaskError)
    assert error.remote_traceback == "Traceback: line 7"


def test_without_a_cause_it_is_the_plain_error() -> None:
    plain = TaskError("f", "text")
    assert plain.as_instanceof_cause() is plain
    inner = TaskError("g", "inner")
    assert TaskError("f", "text", inner).as_instanceof_cause() is inner


def test_a_class_that_forbids_subclasses_is_caught_all_the_same() -> None:
    class Final(Exception):
        def __init_subclass__(cls) -> None:
            raise TypeError("final")

    error = error_of(Final("x"))
    assert isinstance(error, Final)
    assert isinstance(error.cause, Final)


def test_a_class_whose_layout_conflicts_gives_the_plain_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Number(ValueError, metaclass=_Refusing):
        pass

    with caplog.at_level(logging.WARNING):
        error = error_of(Number("x"))
    assert type(error) is TaskError
    assert isinstance(error.cause, Number)
    (record,) = caplog.records
    assert "Shop.buy raised a Number, and no class can be derived from that" in record.getMessage()


def test_an_error_of_our_base_class_is_the_plain_error() -> None:
    error = error_of(RayError("x"))
    assert type(error) is TaskError
    assert type(error.cause) is RayError


class _Refusing(type):
    """Its classes have no bases that could be seen."""

    @property
    def __mro__(cls) -> Any:
        raise RuntimeError("no mro")


class ReadOnlyArgs(Exception):
    def __init__(self, text: str) -> None:
        self._text = text

    @property
    def args(self) -> Any:
        return (self._text,)


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int


@dataclasses.dataclass
class Unhashable(Exception):
    code: int


class Guarded(Exception):
    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name} is read-only")


class NamedAsOurs(Exception):
    @property
    def cause(self) -> str:
        return "mine"

    @property
    def function_name(self) -> str:
        return "mine"

    @property
    def remote_traceback(self) -> str:
        raise RuntimeError("mine")


class WithSlot(Exception):
    __slots__ = ("code",)

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text, code)
        self.code = code


class Hostile(Exception):
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Metaclass(type):
    def __new__(mcs, name: str, bases: Any, namespace: Any, code: int) -> Any:
        return super().__new__(mcs, name, bases, namespace)

    def __init__(cls, name: str, bases: Any, namespace: Any, code: int) -> None:
        super().__init__(name, bases, namespace)


class Demanding(Exception, metaclass=Metaclass, code=1):
    pass


class Stop(BaseException):
    pass


class Singular(Exception):
    def __new__(cls, text: str) -> Singular:
        assert cls is Singular, "no other class"
        return super().__new__(cls, text)


@pytest.mark.parametrize(
    "cause",
    [
        ReadOnlyArgs("x"),
        Frozen(5),
        Unhashable(5),
        Guarded("x"),
        NamedAsOurs("x"),
        WithSlot("x", 9),
        Hostile("x"),
        Demanding("x"),
        Stop("x"),
        GeneratorExit("x"),
        Singular("x"),
        ActorDiedError("gone", "ab"),
    ],
    ids=lambda cause: type(cause).__name__,
)
def test_a_cause_that_resists_is_caught_and_can_be_raised_copied_and_pickled(
    cause: BaseException,
) -> None:
    for error in (error_of(cause), copy.copy(error_of(cause)), _pickled(error_of(cause))):
        assert isinstance(error, type(cause))
        assert isinstance(error, TaskError)
        assert str(error) == "Shop.buy raised:\nTraceback: line 7"
        with pytest.raises(TaskError) as caught, contextlib.ExitStack():
            raise error
        assert caught.value is error
        assert error in {error}
        error.with_traceback(None).__notes__ = ["written to"]


def _pickled(error: Any) -> Any:
    return pickle.loads(cloudpickle.dumps(error))


def test_fields_slots_and_own_properties_are_as_the_users_class_has_them() -> None:
    assert error_of(Frozen(5)).code == 5
    assert error_of(WithSlot("x", 9)).code == 9
    assert error_of(ReadOnlyArgs("x")).args == ("x",)
    assert error_of(NamedAsOurs("x")).cause == "mine"


def test_what_names_are_missing_is_kept() -> None:
    assert error_of(ImportError("x", name="y")).name == "y"
    assert error_of(AttributeError("x", name="y", obj=1)).name == "y"


def test_an_interruption_is_no_ctrl_c_for_who_gets_it() -> None:
    error = error_of(KeyboardInterrupt("k"))
    assert isinstance(error, TaskCancelledError)
    assert isinstance(error, Exception)
    assert not isinstance(error, KeyboardInterrupt)
    assert type(error.cause) is KeyboardInterrupt


def test_a_cancellation_within_asyncio_is_one_of_ours_too() -> None:
    error = error_of(asyncio.CancelledError("inner"))
    assert isinstance(error, TaskCancelledError)
    assert isinstance(error, asyncio.CancelledError)


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration, asyncio.CancelledError, Stop])
def test_who_awaits_a_future_gets_an_error_whatever_was_raised(kind: Any) -> None:
    future: Future[Any] = Future()

    def load() -> Any:
        raise error_of(kind("x"))

    async def wait() -> Any:
        return await asyncio.wait_for(asyncio.wrap_future(future), 60)

    complete(future, load)
    with pytest.raises(TaskError, match="line 7"):
        asyncio.run(wait())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no groups")
def test_groups_are_groups_with_what_is_in_them() -> None:
    class Of(ExceptionGroup[Any]):  # noqa: F821 - of Python 3.11
        def __new__(cls, text: str, errors: Any, code: int) -> Any:
            made = super().__new__(cls, text, errors)
            made.code = code
            return made

        def __init__(self, text: str, errors: Any, code: int) -> None:
            super().__init__(text, errors, code)

    error = error_of(Of("several", [ValueError("v"), TypeError("t")], 4))
    assert isinstance(error, Of)
    assert [type(one) for one in error.exceptions] == [ValueError, TypeError]
    assert (error.message, error.code) == ("several", 4)
    whole = BaseExceptionGroup("several", [Stop("s")])  # noqa: F821 - of Python 3.11
    assert isinstance(error_of(whole), TaskError)
    assert error_of(whole).cause is whole


def test_an_actors_death_pickles_with_its_id() -> None:
    died = pickle.loads(pickle.dumps(ActorDiedError("gone", "ab")))
    assert (str(died), died.actor_id) == ("gone", "ab")
