"""What `get` raises is the user's exception too, whatever its class wants."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from celery_actors.exceptions import ActorDiedError, RayError, TaskError


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


def test_a_class_that_forbids_subclasses_gives_the_plain_error() -> None:
    class Final(Exception):
        def __init_subclass__(cls) -> None:
            raise TypeError("final")

    error = error_of(Final("x"))
    assert type(error) is TaskError
    assert isinstance(error.cause, Final)


def test_an_actors_death_pickles_with_its_id() -> None:
    died = pickle.loads(pickle.dumps(ActorDiedError("gone", "ab")))
    assert (str(died), died.actor_id) == ("gone", "ab")
