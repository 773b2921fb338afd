"""inspect_serializability finds the innermost parts that can't be pickled."""

from __future__ import annotations

import io
import threading
from typing import Any

import pytest

from celery_actors.util import inspect_serializability
from celery_actors.util.check_serialize import FailureTuple

LOCK = threading.Lock()


class Holder:
    def __init__(self, inner: Any) -> None:
        self.number = 1
        self.inner = inner


def inspect(value: Any, **options: Any) -> tuple[bool, dict[tuple[str, ...], FailureTuple], str]:
    out = io.StringIO()
    serializable, failures = inspect_serializability(value, print_file=out, **options)
    return serializable, {failure.path: failure for failure in failures}, out.getvalue()


@pytest.mark.parametrize("value", [1, [1, {"a": None}], Holder(2), lambda: 3])
def test_what_pickles_has_no_failures(value: Any) -> None:
    serializable, failures, report = inspect(value, name="it")
    assert serializable
    assert not failures
    assert "it can be serialized" in report


def test_a_closure_names_its_variable() -> None:
    lock = threading.Lock()

    def use() -> Any:
        return lock

    serializable, failures, report = inspect(use, name="use")
    assert not serializable
    failure = failures["use", "lock"]
    assert failure.obj is lock
    assert failure.parent is use
    assert failure.name == "lock"
    assert "FailTuple(lock" in repr(failure)
    assert "use -> lock" in report


def test_every_innermost_part_is_found() -> None:
    value = Holder({"a": [1, LOCK], "b": Holder(LOCK), "c": "fine"})
    serializable, failures, _ = inspect(value, depth=5)
    assert not serializable
    assert set(failures) == {("inner", "['a']", "[1]"), ("inner", "['b']", "inner")}
    assert all(failure.obj is LOCK for failure in failures.values())


def test_it_looks_no_deeper_than_it_is_told() -> None:
    value = Holder(Holder(Holder(LOCK)))
    _, failures, _ = inspect(value, depth=1)
    assert set(failures) == {("inner",)}
    assert failures["inner",].obj is value.inner
    _, failures, _ = inspect(value, depth=0)
    assert failures[()].obj is value
    assert failures[()].parent is None


def test_a_global_of_a_function_is_found() -> None:
    def use() -> Any:
        return LOCK

    _, failures, _ = inspect(use)
    assert failures["LOCK",].obj is LOCK


def test_the_report_goes_to_standard_output_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    serializable, failures = inspect_serializability(LOCK, name="lock")
    assert not serializable
    assert len(failures) == 1
    assert "lock can't be serialized" in capsys.readouterr().out
