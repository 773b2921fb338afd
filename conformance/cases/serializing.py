"""What values may travel, how, and what is said of those that can't."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import importlib
import threading
import uuid

import numpy as np

from conformance.case import case
from conformance.checks import raises, submodule


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Point:
    x: int
    y: int


Pair = collections.namedtuple("Pair", "left right")


def _echo(ray):
    @ray.remote
    class Echo:
        def say(self, x):
            return x

        def look(self, x, question):
            return question(x)

    return Echo.remote()


@case("Values of the standard library arrive equal")
def standard_values(ray):
    values = [
        datetime.datetime(2024, 2, 29, tzinfo=datetime.timezone.utc),
        decimal.Decimal("1.10"),
        uuid.UUID(int=5),
        frozenset({1, 2}),
        1 + 2j,
        range(3),
        b"bytes",
        bytearray(b"more"),
        collections.OrderedDict(a=1),
        collections.Counter("aab"),
        float("inf"),
        2**100,
    ]
    assert ray.get(_echo(ray).say.remote(values)) == values


@case("Classes of a module arrive as the same class: enums, dataclasses, named tuples")
def classes_of_a_module(ray):
    values = [Colour.RED, Point(1, 2), Pair(1, 2)]
    got = ray.get(_echo(ray).say.remote(values))
    assert got == values
    assert got[0] is Colour.RED
    assert type(got[1]) is Point
    assert type(got[2]) is Pair


@case("Objects of a class that was defined in a function arrive with their methods")
def local_class(ray):
    class Local:
        def __init__(self, x):
            self.x = x

        def double(self):
            return 2 * self.x

    assert ray.get(_echo(ray).look.remote(Local(4), lambda local: local.double())) == 8
    assert ray.get(_echo(ray).say.remote(Local(5))).double() == 10


@case("Functions, lambdas and closures travel as values")
def functions(ray):
    offset = 3

    def add(x):
        return x + offset

    echo = _echo(ray)
    assert ray.get(echo.look.remote(1, add)) == 4
    assert ray.get(echo.say.remote(lambda x: x * offset))(2) == 6


@case("Functions and classes may use numpy arrays of the program around them")
def arrays_around(ray):
    weights = np.array([1.0, 2.0])

    @ray.remote
    def total():
        return float(weights.sum())

    @ray.remote
    class Actor:
        def total(self):
            return float(weights.sum())

    assert ray.get([total.remote(), Actor.remote().total.remote()]) == [3.0, 3.0]


@case("A class travels as a value")
def class_as_a_value(ray):
    class Local:
        name = "local"

    assert ray.get(_echo(ray).look.remote(Local, lambda kind: kind.name)) == "local"
    assert ray.get(_echo(ray).say.remote(Point)) is Point


@case("A value that contains itself arrives so")
def recursive(ray):
    value = [1]
    value.append(value)
    got = ray.get(_echo(ray).say.remote(value))
    assert got[0] == 1
    assert got[1] is got


@case(
    "An object that is twice in one argument arrives equal, twice",
    better="It arrives as one object, as in pickle; in Ray plain lists become two.",
)
def shared_inside(ray):
    shared = [1]
    assert ray.get(_echo(ray).look.remote([shared, shared], lambda v: v[0] == v[1])) is True


@shared_inside.ours
def shared_inside_is_one(ray):
    shared = [1]
    assert ray.get(_echo(ray).look.remote([shared, shared], lambda v: v[0] is v[1])) is True


@case("An argument is a copy: the actor's changes are not seen by the caller")
def arguments_are_copies(ray):
    value = {"list": [1]}
    ray.get(_echo(ray).look.remote(value, lambda v: v["list"].append(2)))
    assert value == {"list": [1]}


@case("__getstate__ and __setstate__ of an object's class are used")
def getstate(ray):
    class Stateful:
        def __init__(self):
            self.lock = threading.Lock()
            self.x = 1

        def __getstate__(self):
            return {"x": self.x}

        def __setstate__(self, state):
            self.x = state["x"] + 1
            self.lock = threading.Lock()

    assert ray.get(ray.put(Stateful())).x == 2


@case("__reduce__ of an object's class is used")
def reduce(ray):
    class Reduced:
        def __init__(self, x):
            self.x = x

        def __reduce__(self):
            return type(self), (self.x * 10,)

    assert ray.get(ray.put(Reduced(2))).x == 20


@case("numpy arrays arrive equal, of every kind and layout")
def numpy_arrays(ray):
    arrays = [
        np.arange(10),
        np.zeros((3, 4), dtype=np.float32),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.arange(10)[::2],
        np.array(["a", "bc"]),
        np.array([], dtype=np.int8),
        np.array(5),
    ]
    got = ray.get(_echo(ray).say.remote(arrays))
    for one, other in zip(arrays, got, strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


@case("A large numpy array from get() is read-only: it lies in shared memory")
def arrays_are_read_only(ray):
    got = ray.get(ray.put(np.zeros(500_000)))
    assert not got.flags.writeable
    with raises(ValueError):
        got[0] = 1.0
    copy = got.copy()
    copy[0] = 1.0
    assert copy[0] == 1.0


@case("get() of a large array copies nothing: its memory is shared")
def arrays_are_not_copied(ray):
    ref = ray.put(np.arange(5_000_000))
    arrays = [ray.get(ref) for _ in range(4)]
    assert all(int(array.sum()) == 12_499_997_500_000 for array in arrays)
    assert len({array.__array_interface__["data"][0] for array in arrays}) == 1


@case("A large array as an argument is read-only in the actor, and shared")
def array_argument(ray):
    ref = ray.put(np.ones(500_000))
    echo = _echo(ray)
    assert ray.get(echo.look.remote(ref, lambda a: (a.flags.writeable, float(a.sum())))) == (
        False,
        500_000.0,
    )


@case("An array stays readable after its ref has gone")
def array_outlives_its_ref(ray):
    ref = ray.put(np.arange(500_000))
    array = ray.get(ref)
    del ref
    for _ in range(3):
        ray.put(np.zeros(500_000))
    assert int(array[-1]) == 499_999


@case("Arrays inside objects and containers travel as well")
def arrays_inside(ray):
    value = {"arrays": [np.arange(100_000), np.ones(3)], "point": Point(np.arange(3), 1)}
    got = ray.get(_echo(ray).say.remote(value))
    assert int(got["arrays"][0].sum()) == 4_999_950_000
    assert list(got["point"].x) == [0, 1, 2]


@case("A value that can't be pickled raises TypeError at .remote() that says what it is")
def unpicklable_argument(ray):
    echo = _echo(ray)
    with raises(TypeError, match="(?i)lock"):
        echo.say.remote(threading.Lock())


@case("put() of a value that can't be pickled raises TypeError")
def unpicklable_put(ray):
    with raises(TypeError, match="(?i)lock"):
        ray.put({"deep": [threading.Lock()]})


@case("A function that closes over what can't be pickled raises TypeError that says so")
def unpicklable_closure(ray):
    lock = threading.Lock()

    @ray.remote
    def work():
        with lock:
            return 1

    with raises(TypeError, match="(?i)lock"):
        work.remote()


@case("A class that closes over what can't be pickled raises TypeError at .remote()")
def unpicklable_class(ray):
    lock = threading.Lock()

    @ray.remote
    class Actor:
        def work(self):
            return lock

    with raises(TypeError, match="(?i)lock"):
        Actor.remote()


@case("A result that can't be pickled raises at get(), and the actor lives on")
def unpicklable_result(ray):
    echo = _echo(ray)
    with raises(TypeError, ray.exceptions.RayError):
        ray.get(echo.look.remote(1, lambda _x: threading.Lock()))
    assert ray.get(echo.say.remote(1)) == 1


@case("util.inspect_serializability() finds what in a value can't be pickled")
def inspect_serializability(ray):
    import contextlib
    import io

    util = submodule(ray, "util")
    lock = threading.Lock()

    def work():
        return lock

    with contextlib.redirect_stdout(io.StringIO()):
        good, found = util.inspect_serializability(work, name="work")
        assert good is False
        assert any("lock" in str(one).lower() for one in found)
        assert util.inspect_serializability([1, 2]) == (True, set())


@case("util.register_serializer() sets how a class is pickled, deregister_serializer() ends it")
def register_serializer(ray):
    util = submodule(ray, "util")

    class Locked:
        def __init__(self, x):
            self.x = x
            self.lock = threading.Lock()

    with raises(TypeError):
        ray.put(Locked(1))
    util.register_serializer(
        Locked, serializer=lambda value: value.x, deserializer=lambda x: Locked(x + 1)
    )
    assert ray.get(ray.put(Locked(1))).x == 2
    util.deregister_serializer(Locked)
    with raises(TypeError):
        ray.put(Locked(1))


@case("A running generator is no argument: TypeError at .remote()")
def generators_stay(ray):
    echo = _echo(ray)
    with raises(TypeError):
        echo.say.remote(x for x in range(3))


@case("Exceptions travel as values, with what they were made of")
def exceptions_as_values(ray):
    got = ray.get(_echo(ray).say.remote([KeyError("k"), OSError(2, "no", "file")]))
    assert got[0].args == ("k",)
    assert got[1].errno == 2
    assert got[1].filename == "file"


@case("Strings of any script, and large ones, arrive equal")
def strings(ray):
    values = ["", "héllo", "日本語", "\x00\ud7ff", "x" * 300_000]
    assert ray.get(_echo(ray).say.remote(values)) == values


@case("A class and an enum's members of a module are the same in an actor, and back")
def one_version_of_a_module(ray):
    @ray.remote
    class Looks:
        def look(self, point, colour):
            serializing = importlib.import_module(Point.__module__)
            same = type(point) is serializing.Point, colour is serializing.Colour.RED
            return same, serializing.Point(3, 4), serializing.Colour.RED

    same, point, colour = ray.get(Looks.remote().look.remote(Point(1, 2), Colour.RED))
    assert same == (True, True)
    assert type(point) is Point
    assert point == Point(3, 4)
    assert colour is Colour.RED


@case("A value may put another while it is pickled, and is asked once how it is pickled")
def reentrant(ray):
    asked = []

    class Part:
        pass

    class Stored:
        def __reduce__(self):
            asked.append(1)
            return ray.get, (ray.put(Part()),)

    assert type(ray.get(ray.put([Stored()]))[0]).__name__ == "Part"
    assert len(asked) == 1
