"""Flat values: their pickles load as a pickler's do, and what isn't flat is left to it."""

from __future__ import annotations

import copyreg
import pickle
import pickletools
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from celery_actors import flat, serialization
from celery_actors.flat import Frame


def loaded(frames: list[Frame] | None) -> Any:
    assert frames is not None, "it is flat"
    pickletools.dis(bytes(frames[0]), out=sys.stderr)  # complains of what no pickler would write
    return serialization.loads(frames)


def read_only(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    array.flags.writeable = False
    return array


ARRAYS = {
    "one dimension": np.arange(1000),
    "three": np.arange(24.0).reshape(2, 3, 4),
    "none": np.array(2.5),
    "empty": np.zeros((0,), "float32"),
    "empty in one": np.zeros((3, 0, 2)),
    "in Fortran's order": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "read only": read_only(np.arange(5)),
    "of bools": np.array([True, False]),
    "of complex numbers": np.array([1 + 2j]),
    "of halves": np.arange(3, dtype="float16"),
    "of long doubles": np.arange(3, dtype="longdouble"),
    "with a dtype that was pickled": pickle.loads(pickle.dumps(np.arange(3))),
    "a long shape": np.zeros((1,) * 32),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_arrays_come_back_as_by_a_pickler(array: np.ndarray[Any, Any]) -> None:
    buffers: list[pickle.PickleBuffer] = []
    stream = pickle.dumps(array, protocol=5, buffer_callback=buffers.append)
    theirs = pickle.loads(stream, buffers=buffers)
    for ours in (loaded(flat.dump_array(array)), loaded(flat.dump_arguments([array], {}))[0][0]):
        assert type(ours) is np.ndarray
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        assert ours.strides == theirs.strides
        assert ours.flags.writeable == theirs.flags.writeable
        assert np.array_equal(ours, theirs)
        assert not array.size or np.shares_memory(ours, array), "no copy was made"


class Matrix(np.ndarray[Any, Any]):
    """An array of a class of its own."""


@pytest.mark.parametrize(
    "value",
    [
        np.arange(10)[::2],
        np.array([object()]),
        np.array(["text"]),
        np.array(["2026-11-26"], "datetime64[D]"),
        np.zeros(2, [("a", "i4"), ("b", "f8")]),
        np.zeros(2, np.dtype("i8", metadata={"unit": "m"})),
        np.zeros(3).view(Matrix),
        np.arange(5, dtype=">i4"),
        np.arange(3, dtype="longdouble").astype(">f16"),  # the buffer protocol doesn't know it
        np.float64(2.5),
        [1],
        (),
        int,
    ],
    ids=lambda value: f"{type(value).__name__} {value!r}"[:40],
)
def test_what_is_not_flat_is_left_to_the_pickler(value: Any) -> None:
    assert flat.dump_atom(value) is None
    assert flat.dump_array(value) is None
    assert flat.dump_arguments([1, value], {}) is None
    assert flat.dump_arguments([], {"name": value}) is None


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ([], {}),
        ([1], {}),
        ([], {"a": None}),
        ([0, -1, 255, 256, 2**31, -(2**31) - 1, 2**63, 10**400], {}),
        ([True, False, None, 2.5, float("inf")], {"text": "", "more": "ä\ud800\n", "π": b"\0"}),
        (["x" * 300, b"y" * 300], {"a": "z" * 70000}),
        (list(range(3000)), {f"n{i}": i for i in range(3000)}),
    ],
)
def test_arguments_come_back(args: list[Any], kwargs: dict[str, Any]) -> None:
    frames = flat.dump_arguments(args, kwargs)
    back = loaded(frames if frames is not None else serialization.dumps((args, kwargs), str).frames)
    assert back == (args, kwargs)
    assert [*map(type, back[0])] == [*map(type, args)]
    assert list(back[1]) == list(kwargs)


def test_numbers_and_arrays_among_each_other() -> None:
    first, second = np.arange(4), np.ones((2, 2), "float32")
    frames = flat.dump_arguments([1, first, "two"], {"x": second, "y": 3})
    (one, a, two), kwargs = loaded(frames)
    assert (one, two, kwargs["y"]) == (1, "two", 3)
    assert np.array_equal(a, first)
    assert np.array_equal(kwargs["x"], second)
    assert frames is not None
    assert len(frames) == 3


def test_an_array_that_occurs_twice_comes_out_as_one() -> None:
    array = np.arange(4)
    assert flat.dump_arguments([array], {"same": array}) is None
    dumped = serialization.dumps(([array], {"same": array}), str)
    args, kwargs = serialization.loads(dumped.frames)
    assert args[0] is kwargs["same"]


def test_a_serializer_of_the_users_is_asked_also_for_arrays() -> None:
    serialization.register_serializer(np.ndarray, serializer=list, deserializer=tuple)
    try:
        assert serialization.loads(serialization.dumps(np.arange(3), str).frames) == (0, 1, 2)
        assert serialization.dump_flat_arguments([np.arange(3)], {}) is None
    finally:
        serialization.deregister_serializer(np.ndarray)
    assert serialization.dump_flat_arguments([np.arange(3)], {}) is not None


def test_a_reducer_for_arrays_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(copyreg.dispatch_table, np.ndarray, lambda array: (tuple, (list(array),)))
    assert serialization.loads(serialization.dumps(np.arange(3), str).frames) == (0, 1, 2)


class Name(str):
    """A name that this module alone knows."""


def test_names_that_are_more_than_strings_are_left_to_the_pickler() -> None:
    assert flat.dump_arguments([], {Name("a"): 1}) is None
    assert flat.dump_arguments([Name("a")], {}) is None


def test_in_band_there_is_one_frame() -> None:
    dumped = serialization.dumps(np.arange(3), str, in_band=True)
    assert len(dumped.frames) == 1
    assert np.array_equal(serialization.loads(dumped.frames), np.arange(3))


def test_numpy_is_imported_for_none_of_it() -> None:
    program = (
        "import sys\n"
        "from celery_actors import flat\n"
        "assert flat.dump_arguments([1, 'a'], {'b': 2.5}) is not None\n"
        "assert flat.dump_array([1]) is None\n"
        "print('numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"
