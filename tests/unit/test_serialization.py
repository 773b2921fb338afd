"""Pickling: by value or by name, buffers out of band, and errors that name the culprit."""

from __future__ import annotations

import collections
import functools
import os
import pickletools
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import celery_actors as ray
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


def names_in(value: Any) -> str:
    return "".join(
        str(argument) for _, argument, _ in pickletools.genops(bytes(dumps(value).frames[0]))
    )


BY_VALUE = ("_make_skeleton_class", "_make_function")


def test_what_is_defined_in_a_module_goes_by_name() -> None:
    assert "OrderedDict" in names_in(collections.OrderedDict)
    for value in (Point, [{"nested": Point(1)}], names_in, collections.OrderedDict(a=1)):
        assert not any(name in names_in(value) for name in BY_VALUE)
    assert "Point" in names_in([{"nested": Point(1)}])
    assert back(Point) is Point


def test_what_is_defined_in_a_function_goes_by_value() -> None:
    class Local:
        pass

    assert "_make_skeleton_class" in names_in(Local())
    assert "_make_function" in names_in(lambda: 1)


def test_what_goes_by_value_needs_no_module_at_the_other_end(tmp_path: Path) -> None:
    class Local:
        def __init__(self, x: int) -> None:
            self.x = x

    (tmp_path / "pickled").write_bytes(bytes(dumps([Local(3), lambda y: Local(y).x]).frames[0]))
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


def decorated(value: int) -> int:
    return value + 1


plain = decorated
decorated = ray.remote(decorated)  # type: ignore[assignment]


def test_what_a_decorator_has_wrapped_goes_by_name() -> None:
    assert "_make_function" not in names_in(plain)
    assert back(plain) is plain


def test_the_reductions_of_a_value_run_once() -> None:
    runs = []

    class Reduced:
        """By value itself, so that no part of the value could go with plain pickle alone."""

        def __reduce__(self) -> Any:
            runs.append(1)
            return int, (3,)

    assert back([Reduced(), Reduced, lambda: 1])[0] == 3
    assert len(runs) == 1


def test_an_error_of_a_reduction_is_the_users_own() -> None:
    class Refuses:
        def __reduce__(self) -> Any:
            raise LookupError("not now")

    with pytest.raises(LookupError, match="not now"):
        dumps([Refuses()])


def test_a_value_that_is_pickled_within_another_has_a_record_of_its_own() -> None:
    records: list[Any] = []

    class Outer:
        def __reduce__(self) -> Any:
            before = serialization.outgoing()
            inner = dumps([Inner()])
            records.extend((before, inner, serialization.outgoing()))
            return int, ()

    class Inner:
        def __reduce__(self) -> Any:
            records.append(serialization.outgoing())
            return int, ()

    outer = dumps(Outer())
    seen_inside, before, inner, after = records
    assert before is after is outer
    assert seen_inside is inner
    assert inner is not outer


def test_user_code_that_is_pickled_holds_back_no_other_thread() -> None:
    pickled: list[bool] = []

    class Waits:
        def __reduce__(self) -> Any:
            other = threading.Thread(target=lambda: pickled.append(bool(dumps(lambda: Waits))))
            other.start()
            other.join(30)
            return int, ()

    dumps([lambda: 1, Waits()])
    assert pickled == [True]


def test_a_fork_while_another_thread_pickles_leaves_the_child_able_to() -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow:
        def __reduce__(self) -> Any:
            begun.set()
            go_on.wait(30)
            return int, ()

    thread = threading.Thread(target=dumps, args=([lambda: 1, Slow()],))
    thread.start()
    assert begun.wait(30)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(30)  # where a lock stays taken the kernel ends the child
        status = 1
        try:
            dumps(lambda: 1)
            status = 0
        finally:
            os._exit(status)
    go_on.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@functools.lru_cache(maxsize=3)
def cached(value: int) -> int:
    return value + 1


def test_cached_functions_and_properties() -> None:
    @functools.lru_cache(maxsize=2)
    def local(value: int) -> int:
        return value if value < 2 else local(value - 1) + local(value - 2)

    class Lazy:
        @functools.cached_property
        def once(self) -> object:
            return object()

    assert back(cached) is cached
    again = back(local)
    assert again(20) == 6765
    assert again.cache_parameters()["maxsize"] == 2
    lazy = back(type("Lazy", (Lazy,), {}))()
    assert lazy.once is lazy.once


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
