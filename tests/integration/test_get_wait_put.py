"""Values: got, waited for, put; small, large, nested, from several threads, in event loops."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from waiting import wait_until

import celery_actors as ray
from celery_actors.client.current import require_process
from celery_actors.exceptions import GetTimeoutError, ObjectLostError, TaskError
from celery_actors.ids import new_caller_id, object_id

pytestmark = pytest.mark.usefixtures("cluster")

SIZES = (8 * 1024, 100 * 1024, 20 * 1024 * 1024)


class GotWhereItArrives:
    """Stands for the value of a ref, which is got while this is unpickled."""

    def __init__(self, ref: Any) -> None:
        self.ref = ref

    def __reduce__(self) -> Any:
        return got, (self.ref,)


def got(ref: Any) -> Any:
    return ray.get(ref, timeout=60)


@ray.remote
class Values:
    """Returns what it is told to, when it is told to."""

    def echo(self, value: Any) -> Any:
        return value

    def bytes_of(self, size: int) -> bytes:
        return b"x" * size

    def array(self, size: int) -> Any:
        return np.arange(size, dtype=np.uint8)

    def digest(self, value: Any) -> str:
        return hashlib.sha256(memoryview(value)).hexdigest()

    def total(self, array: Any) -> float:
        return float(array.sum())

    def writable(self, array: Any) -> bool:
        return bool(array.flags.writeable)

    def kinds(self, *args: Any, **kwargs: Any) -> list[str]:
        return [type(value).__name__ for value in (*args, *kwargs.values())]

    def when(self, path: str) -> str:
        while not Path(path).exists():
            time.sleep(0.005)
        return path

    def refers_to(self, refs: list[Any]) -> Any:
        return GotWhereItArrives(refs[0])

    def fail(self) -> None:
        raise KeyError("failed")


@pytest.fixture(scope="module")
def values() -> Any:
    return Values.remote()


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


# -- get --------------------------------------------------------------------------------------


def test_get_one_and_a_list_in_its_order(values: Any) -> None:
    refs = [values.echo.remote(i) for i in range(50)]
    assert ray.get(refs[7]) == 7
    assert ray.get(refs[::-1]) == list(range(50))[::-1]
    assert ray.get([refs[1], refs[1]]) == [1, 1]
    assert ray.get(()) == []
    assert ray.get(refs[7]) == 7, "once more"


def test_get_with_a_timeout(values: Any, gate: Path) -> None:
    late = values.when.remote(str(gate))
    with pytest.raises(GetTimeoutError):
        ray.get(late, timeout=0)
    with pytest.raises(TimeoutError, match="1 of 1 objects"):
        ray.get([late], timeout=0.05)
    gate.touch()
    assert ray.get(late, timeout=60) == str(gate)
    assert ray.get(late, timeout=0) == str(gate)


def test_the_first_failure_ends_a_get(values: Any, gate: Path) -> None:
    other = Values.remote()
    never = other.when.remote(str(gate))
    with pytest.raises(KeyError, match="failed"):
        ray.get([never, values.fail.remote()])
    gate.touch()
    assert ray.get(never) == str(gate)


def test_get_of_something_else(values: Any) -> None:
    for wrong in ("ref", 1, {values.echo.remote(1)}, None):
        with pytest.raises(TypeError):
            ray.get(wrong)  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        ray.get([values.echo.remote(1), 2])
    with pytest.raises(ValueError, match="negative"):
        ray.get(values.echo.remote(1), timeout=-1)


def test_get_of_an_unknown_object_times_out() -> None:
    unknown = ray.ObjectRef.from_hex(object_id(new_caller_id(), 1).hex())
    with pytest.raises((GetTimeoutError, ObjectLostError)):
        ray.get(unknown, timeout=0.2)
    with pytest.raises(ValueError, match="18 bytes"):
        ray.ObjectRef.from_hex("abcd")


# -- wait -------------------------------------------------------------------------------------


def test_wait_keeps_the_order(values: Any, gate: Path) -> None:
    late = Values.remote().when.remote(str(gate))
    first, second = values.echo.remote(1), values.echo.remote(2)
    ray.get([first, second])
    assert ray.wait([second, late, first], num_returns=2) == ([second, first], [late])
    assert ray.wait([second, late, first]) == ([second], [late, first])
    assert ray.wait([late], timeout=0.02) == ([], [late])
    assert ray.wait([late, first], num_returns=2, timeout=0) == ([first], [late])
    gate.touch()
    assert ray.wait([late, first], num_returns=2) == ([late, first], [])


def test_a_failed_call_is_ready(values: Any) -> None:
    failed = values.fail.remote()
    assert ray.wait([failed]) == ([failed], [])


def test_wait_refuses_what_makes_no_sense(values: Any) -> None:
    ref, other = values.echo.remote(1), values.echo.remote(2)
    assert ray.wait([]) == ([], [])
    with pytest.raises(TypeError, match="not a single one"):
        ray.wait(ref)
    with pytest.raises(TypeError):
        ray.wait([ref, 1])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="twice"):
        ray.wait([ref, ref])
    for count in (0, -1, 3):
        with pytest.raises(ValueError, match="num_returns"):
            ray.wait([ref, other], num_returns=count)
    with pytest.raises(ValueError, match="negative"):
        ray.wait([ref], timeout=-0.1)


# -- put --------------------------------------------------------------------------------------


def test_put_of_small_and_large_values(values: Any) -> None:
    for value in (1, None, "text", {"a": [1, 2]}, b"x" * 1000):
        assert ray.get(ray.put(value)) == value
    for size in SIZES:
        data = bytes(range(256)) * (size // 256)
        ref = ray.put(data)
        assert ray.get(ref) == data
        assert ray.get(values.digest.remote(ref)) == hashlib.sha256(data).hexdigest()


def test_a_large_array_is_read_without_a_copy_and_read_only(values: Any) -> None:
    array = np.arange(1_000_000, dtype=np.float64)
    ref = ray.put(array)
    array[0] = 99  # what was put does not change any more
    first, second = ray.get(ref), ray.get(ref)
    assert first[0] == 0
    assert not first.flags.writeable
    assert not first.flags.owndata
    assert first.sum() == second.sum() == ray.get(values.total.remote(ref))
    assert ray.get(values.writable.remote(ref)) is False
    del ref
    assert first[-1] == 999_999, "a view outlives the ref"


def test_put_of_a_ref_is_refused() -> None:
    with pytest.raises(TypeError, match="ObjectRef"):
        ray.put(ray.put(1))


# -- large arguments and results -----------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_large_arguments_and_results(values: Any, size: int) -> None:
    data = bytes(range(256)) * (size // 256)
    assert ray.get(values.digest.remote(data)) == hashlib.sha256(data).hexdigest()
    assert ray.get(values.bytes_of.remote(size)) == b"x" * size
    assert ray.get(values.echo.remote(data)) == data
    array = np.frombuffer(data, dtype=np.uint8)
    assert ray.get(values.total.remote(array)) == float(array.sum())
    assert (ray.get(values.array.remote(size)) == np.arange(size, dtype=np.uint8)).all()
    assert (ray.get(values.echo.remote(array)) == array).all()


def test_arrays_that_are_not_contiguous(values: Any) -> None:
    array = np.arange(200_000, dtype=np.int64).reshape(400, 500)[::2, ::3]
    assert (ray.get(values.echo.remote(array)) == array).all()
    assert (ray.get(values.echo.remote(array.T)) == array.T).all()


def test_many_large_values_one_after_another_leave_no_memory(values: Any) -> None:
    directory = Path(require_process().settings.shared_memory_dir)

    def used() -> int:
        total = 0
        for file in directory.rglob("*"):
            with suppress(FileNotFoundError):  # its owner renames what it takes back
                total += file.stat().st_size
        return total

    for _ in range(30):
        assert len(ray.get(values.echo.remote(bytes(10_000_000)))) == 10_000_000
    wait_until(lambda: used() < 300_000_000, "the memory of values that nobody refers to")


# -- refs in arguments and values -----------------------------------------------------------


def test_refs_at_top_level_are_replaced_and_nested_ones_stay(values: Any) -> None:
    ref = ray.put(1)
    assert ray.get(values.kinds.remote(ref, [ref], {"a": ref}, key=ref)) == [
        "int",
        "list",
        "dict",
        "int",
    ]
    (back,) = ray.get(values.echo.remote([ref]))
    assert back == ref
    assert ray.get(back) == 1


def test_a_nested_ref_can_be_got_by_the_receiver(values: Any) -> None:
    @ray.remote
    def inside(box: list[Any]) -> int:
        total: int = sum(ray.get(box))
        return total

    assert ray.get(inside.remote([ray.put(1), values.echo.remote(2)])) == 3


def test_a_returned_ref_outlives_the_one_who_made_it() -> None:
    @ray.remote
    def make() -> list[Any]:
        return [ray.put("small"), ray.put(np.ones(1_000_000))]

    small, large = ray.get(make.remote())
    assert ray.get(small) == "small"
    assert ray.get(large).sum() == 1_000_000


def test_results_of_the_same_actor_as_arguments(values: Any) -> None:
    value = values.echo.remote(0)
    for _ in range(20):
        value = values.echo.remote(value)
    assert ray.get(value) == 0
    large = values.bytes_of.remote(200_000)
    assert len(ray.get(values.echo.remote(large))) == 200_000


def test_a_failed_argument_fails_the_call(values: Any) -> None:
    failed = values.fail.remote()
    for call in (values.echo.remote(failed), Values.remote().echo.remote(failed)):
        with pytest.raises(KeyError) as caught:
            ray.get(call)
        assert isinstance(caught.value, TaskError)
        assert "in fail" in str(caught.value)


def test_calls_behind_one_that_waits_keep_their_order(values: Any, gate: Path) -> None:
    @ray.remote
    class Log:
        def __init__(self) -> None:
            self.seen: list[Any] = []

        def add(self, value: Any) -> list[Any]:
            self.seen.append(value)
            return list(self.seen)

    log = Log.remote()
    calls = [log.add.remote(1), log.add.remote(values.when.remote(str(gate))), log.add.remote(3)]
    assert ray.get(calls[0]) == [1]
    assert ray.wait(calls[1:], timeout=0)[0] == []
    gate.touch()
    assert ray.get(calls[2]) == [1, str(gate), 3]


def test_who_waits_no_longer_is_forgotten(values: Any, gate: Path) -> None:
    """A program that waits for one of many refs again and again keeps nothing for each time."""
    other = Values.remote()
    late, ready = values.when.remote(str(gate)), other.echo.remote(1)
    for _ in range(3):
        assert ray.wait([late, ready]) == ([ready], [late])
        assert ray.wait([late], timeout=0.01) == ([], [late])
        with pytest.raises(KeyError):
            ray.get([late, other.fail.remote()])
    failed = other.fail.remote()
    ray.wait([failed])
    with pytest.raises(KeyError):  # that one is known to have failed
        ray.get([late, failed])
    assert not late.entry.waiters
    gate.touch()
    assert ray.get(late) == str(gate)


# -- futures, event loops, threads ------------------------------------------------------------


def test_future(values: Any, gate: Path) -> None:
    late = values.when.remote(str(gate)).future()
    assert not late.done()
    gate.touch()
    assert late.result(timeout=60) == str(gate)
    assert isinstance(values.fail.remote().future().exception(timeout=60), KeyError)
    assert ray.put(3).future().result(timeout=60) == 3


@pytest.mark.parametrize("main_waits", [False, True])
def test_what_a_future_runs_may_wait_itself(values: Any, tmp_path: Path, main_waits: bool) -> None:
    """Its callbacks, and the unpickling of its value, in whichever thread reads the replies."""
    other, first, second = Values.remote(), tmp_path / "first", tmp_path / "second"
    late, further = values.when.remote(str(first)), other.when.remote(str(second))
    called: Future[Any] = Future()
    late.future().add_done_callback(lambda _: called.set_result(got(further)))
    unpickled = values.refers_to.remote([further]).future()
    opener = threading.Timer(0.5, second.touch)
    opener.start()  # by then the callback waits
    first.touch()
    if main_waits:
        assert got(other.echo.remote(1)) == 1
    assert called.result(timeout=60) == str(second)
    assert unpickled.result(timeout=60) == str(second)
    opener.join()


def test_a_callback_that_exits_ends_no_thread_of_ours(values: Any, gate: Path) -> None:
    def leave(_: Any) -> None:
        raise SystemExit(3)

    values.when.remote(str(gate)).future().add_done_callback(leave)
    gate.touch()
    for n in range(3):  # each of them is completed by the background thread
        assert values.echo.remote(n).future().result(timeout=60) == n


def test_await(values: Any) -> None:
    async def main() -> Any:
        with pytest.raises(KeyError):
            await values.fail.remote()
        refs = [values.echo.remote(i) for i in range(10)]
        return await asyncio.gather(*refs)

    assert asyncio.run(main()) == list(range(10))


def test_refs_hash_compare_and_name_themselves(values: Any) -> None:
    ref, other = values.echo.remote(1), values.echo.remote(1)
    assert ref != other
    assert ref != "ref"
    again = ray.ObjectRef.from_hex(ref.hex())
    assert again == ref
    assert len({ref, again, other}) == 2
    assert ref.hex() in repr(ref)
    assert bytes.fromhex(ref.hex()) == ref.binary()
    assert ray.get(again) == 1


def test_several_threads_at_once(values: Any) -> None:
    def work(number: int) -> list[int]:
        got = []
        for i in range(50):
            got.append(ray.get(values.echo.remote(1000 * number + i), timeout=60))
        return got

    with ThreadPoolExecutor(4) as pool:
        for number, got in enumerate(pool.map(work, range(4))):
            assert got == [1000 * number + i for i in range(50)]


def test_two_threads_wait_for_the_same_ref(values: Any, gate: Path) -> None:
    late = values.when.remote(str(gate))
    got: list[str] = []
    threads = [threading.Thread(target=lambda: got.append(ray.get(late))) for _ in range(3)]
    for thread in threads:
        thread.start()
    gate.touch()
    for thread in threads:
        thread.join(60)
    assert got == [str(gate)] * 3


# -- shared memory of values that were dropped ------------------------------------------------


def _inodes() -> set[int]:
    directory = Path(require_process().settings.shared_memory_dir)
    found = set()
    for path in directory.glob("ca-*"):
        with suppress(FileNotFoundError):  # its owner renames what it takes back
            status = path.stat()
            if status.st_size > 1 << 20:
                found.add(status.st_ino)
    return found


def _files_of(values: Callable[[], Iterator[None]]) -> int:
    """Return how many files a loop of large values uses, the fewest of up to three tries.

    On a busy machine a process may stand still while it frees a value: then the next has a new one.
    """
    fewest = 1000
    for _ in range(3):
        before, seen = _inodes(), set[int]()
        for _ in values():
            seen |= _inodes() - before
        fewest = min(fewest, len(seen))
        if fewest <= 3:
            break
    return fewest


def test_puts_in_a_loop_are_written_over_one_another() -> None:
    """Each drops the value before; it does not wait for the background thread to free it."""
    array = np.ones(2 << 20, dtype=np.uint8)

    def put_in_a_loop() -> Iterator[None]:
        for number in range(30):
            array[0] = number
            ref = ray.put(array)
            yield
            value = ray.get(ref)
            assert (value[0], value[-1]) == (number, 1)
            del value

    assert _files_of(put_in_a_loop) <= 3


def test_large_results_in_a_loop_are_written_over_one_another(values: Any) -> None:
    ray.get(values.array.remote(1))

    def get_in_a_loop() -> Iterator[None]:
        for _ in range(30):
            value = ray.get(values.array.remote(2 << 20))
            yield
            assert value[255] == 255

    assert _files_of(get_in_a_loop) <= 4


def test_a_view_of_a_value_that_was_dropped_does_not_change() -> None:
    views = []
    for number in range(5):
        ref = ray.put(np.full(2 << 20, number, dtype=np.uint8))
        views.append(ray.get(ref))
    del ref
    assert [(int(view[0]), int(view[-1])) for view in views] == [(n, n) for n in range(5)]
