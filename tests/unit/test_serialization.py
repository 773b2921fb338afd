"""Pickling: by value or by name, buffers out of band, and errors that name the culprit."""

from __future__ import annotations

import collections
import pickletools
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from celery_actors import serialization
from celery_actors.exceptions import SerializationError


def dumps(value: Any) -> serialization.Dumped:
    return serialization.dumps(value, lambda: "the value")


def back(value: Any) -> Any:
    return serialization.loads([bytes(memoryview(frame)) for frame in dumps(value).frames])


class Point:
    def __init__(self, x: int) -> None:
        self.x = x


@pytest.mark.parametrize(
    "value", [1, None, True, "text", b"bytes", 2.5, [1, {"a": (2, {3})}], bytearray(b"x" * 10)]
)
def test_plain_values_come_back(value: Any) -> None:
    assert back(value) == value
    assert type(back(value)) is type(value)


def test_arrays_travel_out_of_band() -> None:
    array = np.arange(1000)
    dumped = dumps({"array": array})
    assert len(dumped.frames) == 2
    assert memoryview(dumped.frames[1]).nbytes == array.nbytes
    assert memoryview(dumped.frames[0]).nbytes < 500
    assert dumped.nbytes < array.nbytes + 500
    loaded = serialization.loads(dumped.frames)["array"]
    assert (loaded == array).all()
    assert np.shares_memory(loaded, array), "no copy was made"


def test_what_is_not_contiguous_is_copied_whole() -> None:
    array = np.arange(100).reshape(10, 10)[::2, ::3]
    assert (back(array) == array).all()


def test_which_modules_travel_by_value() -> None:
    assert not serialization.travels_by_value("json")
    assert not serialization.travels_by_value("sys")
    assert not serialization.travels_by_value("numpy")
    assert not serialization.travels_by_value("celery_actors.handle")
    assert serialization.travels_by_value("__main__")
    assert serialization.travels_by_value(__name__)
    assert serialization.travels_by_value("no_such_module")
    assert serialization.travels_by_value(None)


def names_in(value: Any) -> str:
    return "".join(
        str(argument) for _, argument, _ in pickletools.genops(bytes(dumps(value).frames[0]))
    )


def test_library_classes_go_by_name_and_own_ones_by_value() -> None:
    assert "OrderedDict" in names_in(collections.OrderedDict)
    assert "_make_skeleton_class" in names_in(Point)
    assert "_make_skeleton_class" in names_in([{"nested": Point(1)}])
    assert "_make_skeleton_class" not in names_in(collections.OrderedDict(a=1))


def test_what_goes_by_value_needs_no_module_at_the_other_end(tmp_path: Path) -> None:
    (tmp_path / "pickled").write_bytes(bytes(dumps([Point(3), lambda y: Point(y).x]).frames[0]))
    program = (
        "import pickle, sys\n"
        f"point, make = pickle.load(open({str(tmp_path / 'pickled')!r}, 'rb'))\n"
        "print(point.x, make(4))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == ["3", "4"]


def test_cloudpickles_registry_is_left_as_it_was() -> None:
    import cloudpickle

    before = set(cloudpickle.list_registry_pickle_by_value())
    dumps(Point)
    with pytest.raises(SerializationError):
        dumps([Point, threading.Lock()])
    assert set(cloudpickle.list_registry_pickle_by_value()) == before


def lock_in_closure() -> Any:
    lock = threading.Lock()
    return lambda: lock


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (threading.Lock(), ""),
        ([1, threading.Lock()], " at [1]"),
        ({"a": [0, {"b": threading.Lock()}]}, " at ['a'][1]['b']"),
        ((0, threading.Lock()), " at [1]"),
        (lock_in_closure(), " at .<closure lock>"),
    ],
    ids=["bare", "list", "dict", "tuple", "closure"],
)
def test_an_error_names_the_culprit_and_its_place(value: Any, place: str) -> None:
    with pytest.raises(SerializationError) as caught:
        dumps(value)
    message = str(caught.value)
    assert message.startswith("cannot serialize the value: ")
    assert "_thread.lock" in message
    assert f"{place} (" in message
    assert isinstance(caught.value, TypeError)


def test_an_attribute_is_named() -> None:
    point = Point(threading.Lock())  # type: ignore[arg-type]
    with pytest.raises(SerializationError, match=r"at \[0\]\.x \("):
        dumps([point])


def test_a_value_within_itself_and_one_too_deep() -> None:
    loop: list[Any] = []
    loop.append(loop)
    loaded = back(loop)
    assert loaded[0] is loaded
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(SerializationError):
        dumps(deep)


def test_only_a_thread_that_pickles_has_an_outgoing_record() -> None:
    seen = []

    class Looks:
        def __reduce__(self) -> Any:
            seen.append(serialization.outgoing())
            return int, ()

    assert serialization.outgoing() is None
    dumped = dumps(Looks())
    assert seen[0] is dumped
    assert serialization.outgoing() is None


def test_code_that_travels_by_value_keeps_its_file_and_line() -> None:
    def outer() -> Callable[[], int]:
        return lambda: 1

    inner = back(outer)()
    assert inner.__code__.co_filename == __file__
    assert inner.__code__.co_firstlineno == outer.__code__.co_firstlineno + 1
