"""Streaming generators: values arrive as they are yielded."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from waiting import wait_until

import celery_actors as ray
from celery_actors.client.current import require_process
from celery_actors.exceptions import ActorDiedError, GetTimeoutError, SerializationError
from celery_actors.generators import DynamicObjectRefGenerator, ObjectRefGenerator

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote
class Producer:
    def __init__(self) -> None:
        self.made = 0

    def count(self, number: int) -> Iterator[int]:
        for value in range(number):
            self.made = value + 1
            yield value

    def arrays(self, number: int) -> Iterator[Any]:
        for value in range(number):
            yield np.full(50_000, value)

    def breaks(self) -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("in the middle")

    def dies(self) -> Iterator[int]:
        import os

        yield 1
        require_process()  # the value is on its way before the end
        os.kill(os.getpid(), 9)

    @ray.method(num_returns="streaming")
    def listed(self) -> list[int]:
        return [7, 8]

    def how_many(self) -> int:
        return self.made


@ray.remote(max_concurrency=4)
class Gate:
    def __init__(self) -> None:
        self.opened = threading.Semaphore(0)

    def let(self) -> None:
        self.opened.release()

    def values(self, number: int) -> Iterator[int]:
        for value in range(number):
            assert self.opened.acquire(timeout=60)
            yield value


@ray.remote
class AsyncProducer:
    async def count(self, number: int) -> AsyncIterator[int]:
        for value in range(number):
            await asyncio.sleep(0)
            yield value

    async def breaks(self) -> AsyncIterator[int]:
        yield 1
        raise ValueError("in the middle")

    def plain(self, number: int) -> Iterator[int]:
        yield from range(number)


@ray.remote
def squares(number: int) -> Iterator[int]:
    for value in range(number):
        yield value * value


def test_a_generator_method_streams_by_default() -> None:
    stream = Producer.remote().count.remote(1000)
    assert isinstance(stream, ObjectRefGenerator)
    assert [ray.get(ref) for ref in stream] == list(range(1000))
    assert stream.is_finished()
    with pytest.raises(StopIteration):
        next(stream)


def test_a_generator_task_streams_by_default() -> None:
    assert [ray.get(ref) for ref in squares.remote(5)] == [0, 1, 4, 9, 16]
    assert [ray.get(ref) for ref in squares.options(num_returns="streaming").remote(0)] == []


def test_a_fixed_number_of_values_comes_from_a_generator_too() -> None:
    assert ray.get(squares.options(num_returns=3).remote(3)) == [0, 1, 4]


def test_what_a_generator_of_a_fixed_number_yielded_before_it_raised_stays() -> None:
    breaking = Producer.remote().breaks.options(num_returns=4)
    first, second, *rest = breaking.remote()
    assert ray.get([first, second], timeout=60) == [1, 2]
    for ref in rest:
        with pytest.raises(ValueError, match="in the middle"):
            ray.get(ref, timeout=60)


def test_a_generator_of_a_fixed_number_is_not_asked_for_more() -> None:
    producer = Producer.remote()
    assert ray.get(producer.count.options(num_returns=2).remote(9), timeout=60) == [0, 1]
    assert ray.get(producer.how_many.remote(), timeout=60) == 2


def test_refs_without_a_value_raise_where_a_generator_yields_too_few() -> None:
    first, *rest = squares.options(num_returns=3).remote(1)
    assert ray.get(first, timeout=60) == 0
    for ref in rest:
        with pytest.raises(ValueError, match=r"num_returns=3 and yielded 1 value"):
            ray.get(ref, timeout=60)


@ray.remote
def value_that_cannot_be_pickled() -> Iterator[Any]:
    yield 1
    yield threading.Lock()


def test_a_value_that_cannot_be_pickled_leaves_those_before_it() -> None:
    first, second = value_that_cannot_be_pickled.options(num_returns=2).remote()
    assert ray.get(first, timeout=60) == 1
    with pytest.raises(SerializationError):
        ray.get(second, timeout=60)


@ray.remote
def total(refs: DynamicObjectRefGenerator[int]) -> tuple[int, int]:
    return len(refs), sum(ray.get(list(refs)))


def test_a_dynamic_generator_is_one_value_that_others_can_get() -> None:
    ref = squares.options(num_returns="dynamic").remote(4)
    assert ray.get(total.remote(ref), timeout=60) == (4, 14)
    found = ray.get(ref, timeout=60)
    assert ray.get(total.remote(found), timeout=60) == (4, 14)
    assert [ray.get(each, timeout=60) for each in found] == [0, 1, 4, 9]
    assert len(found) == 0


def test_the_last_ref_of_a_dynamic_generator_raises_what_it_raised() -> None:
    producer = Producer.remote()
    first, second, third = ray.get(producer.breaks.options(num_returns="dynamic").remote())
    del producer  # what its actor stored outlives it
    assert ray.get([first, second], timeout=60) == [1, 2]
    for _ in range(2):
        with pytest.raises(ValueError, match="in the middle"):
            ray.get(third, timeout=60)


def test_dynamic_is_for_generators() -> None:
    ref = Producer.remote().how_many.options(num_returns="dynamic").remote()
    with pytest.raises(TypeError, match="num_returns='dynamic' is for generators"):
        ray.get(ref, timeout=60)


def test_values_are_there_while_the_generator_goes_on() -> None:
    gate = Gate.remote()
    stream = gate.values.remote(3)
    assert not stream.next_ready()
    with pytest.raises(GetTimeoutError, match="value 0"):
        stream._next_sync(0.05)
    for value in range(3):
        gate.let.remote()
        assert ray.get(next(stream)) == value
    with pytest.raises(StopIteration):
        next(stream)


def test_a_stream_keeps_nothing_of_those_who_waited_for_its_values() -> None:
    gate = Gate.remote()
    stream = gate.values.remote(10)
    end = stream.stream.end
    for value in range(5):
        gate.let.remote()
        assert ray.get(next(stream)) == value
        assert not end.waiters

    async def main() -> None:
        for value in range(5, 10):
            gate.let.remote()
            assert await (await anext(stream)) == value
            assert len(end.on_settled or ()) <= 1

    asyncio.run(main())


def test_asynchronous_generators() -> None:
    actor = AsyncProducer.remote()
    assert [ray.get(ref) for ref in actor.count.remote(300)] == list(range(300))
    assert [ray.get(ref) for ref in actor.plain.remote(3)] == [0, 1, 2]

    async def main() -> list[int]:
        return [await ref async for ref in actor.count.remote(20)]

    assert asyncio.run(main()) == list(range(20))


@pytest.mark.parametrize(("kind", "before"), [(Producer, [1, 2]), (AsyncProducer, [1])])
def test_an_error_in_the_middle_is_the_last_value(kind: Any, before: list[int]) -> None:
    stream = kind.remote().breaks.remote()
    assert [ray.get(next(stream)) for _ in before] == before
    last = next(stream)
    with pytest.raises(ValueError, match="in the middle"):
        ray.get(last)
    with pytest.raises(StopIteration):
        next(stream)


def test_the_death_of_the_producer_ends_the_stream_with_its_error() -> None:
    stream = Producer.remote().dies.remote()
    refs = list(stream)
    with pytest.raises(ActorDiedError):
        ray.get(refs[-1])
    with pytest.raises(ActorDiedError):
        ray.get(stream.completed())


def test_completed_is_ready_at_the_end() -> None:
    stream = squares.remote(4)
    assert ray.get(stream.completed()) == 4
    assert stream.next_ready()
    assert [ray.get(ref) for ref in stream] == [0, 1, 4, 9]


def test_large_values() -> None:
    arrays = [ray.get(ref) for ref in Producer.remote().arrays.remote(5)]
    assert [int(array.sum()) for array in arrays] == [50_000 * value for value in range(5)]


def test_a_consumer_holds_its_producer_back() -> None:
    actor = Producer.options(max_concurrency=2).remote()
    stream = actor.count.options(_generator_backpressure_num_objects=4).remote(50)
    assert ray.get(next(stream)) == 0
    assert ray.get(next(stream)) == 1
    # Two were taken, four may wait, and one more is made and held.
    wait_until(lambda: ray.get(actor.how_many.remote()) >= 6, "the producer to fill its window")
    assert ray.get(actor.how_many.remote()) <= 7
    assert [ray.get(ref) for ref in stream] == list(range(2, 50))


def test_an_asynchronous_consumer_holds_its_producer_back() -> None:
    actor = AsyncProducer.remote()
    stream = actor.count.options(_generator_backpressure_num_objects=2).remote(20)
    assert [ray.get(ref) for ref in stream] == list(range(20))


def test_values_of_a_dropped_stream_are_released() -> None:
    process = require_process()
    stream = squares.remote(200)
    ray.get(stream.completed())
    ray.get(next(stream))
    del stream
    wait_until(
        lambda: (
            not any(
                process.redis.hlen(key)
                for key in process.redis.scan_iter(f"ca:r:{process.caller.hex()}:*")
            )
        ),
        "the values to leave Redis",
    )
    wait_until(lambda: not process.streams._streams, "the stream to be forgotten")


def test_what_streams_and_is_no_generator() -> None:
    actor = Producer.remote()
    assert [ray.get(ref) for ref in actor.listed.remote()] == [7, 8]
    stream = actor.how_many.options(num_returns="streaming").remote()
    with pytest.raises(TypeError, match="is for generators, and int is none"):
        ray.get(next(stream))


def test_a_generator_of_refs_stays_where_it_is() -> None:
    stream = squares.remote(2)
    with pytest.raises(TypeError, match="can't be serialized"):
        pickle.dumps(stream)
    ray.get(stream.completed())


def test_ten_streams_at_a_time() -> None:
    actor = AsyncProducer.remote()
    streams = [actor.count.remote(50) for _ in range(10)]
    for stream in streams:
        assert [ray.get(ref) for ref in stream] == list(range(50))


class _Passing(Exception):
    pass


class _Again:
    """Its streams raise at their first attempts."""

    def __init__(self) -> None:
        self.attempts = 0
        self.begun: list[int] = []

    @ray.method(retry_exceptions=[_Passing], max_task_retries=2)
    def give(self, fails: int) -> Iterator[str]:
        self.attempts += 1
        yield f"a{self.attempts}"
        yield f"b{self.attempts}"
        if self.attempts <= fails:
            raise _Passing
        yield f"c{self.attempts}"

    @ray.method(retry_exceptions=True, max_task_retries=1)
    def shorter(self) -> Iterator[int]:
        self.attempts += 1
        yield 1
        if self.attempts == 1:
            yield 2
            raise _Passing

    @ray.method(retry_exceptions=[_Passing], max_task_retries=2)
    def other(self) -> Iterator[int]:
        self.attempts += 1
        yield 1
        raise KeyError

    @ray.method(num_returns="streaming", retry_exceptions=True, max_task_retries=2)
    def no_generator(self) -> None:
        self.attempts += 1

    def count(self) -> int:
        return self.attempts


class _AsyncAgain(_Again):
    @ray.method(retry_exceptions=[_Passing], max_task_retries=2)
    async def give(self, fails: int) -> AsyncIterator[str]:  # type: ignore[override]
        for value in super().give(fails):
            await asyncio.sleep(0)
            yield value


def _taken(stream: Any) -> list[Any]:
    values: list[Any] = []
    for ref in stream:
        try:
            values.append(ray.get(ref, timeout=60))
        except _Passing:
            values.append(_Passing)
        except (KeyError, TypeError) as error:
            values.append(str(error))
    return values


@pytest.mark.parametrize("kind", [_Again, _AsyncAgain])
@pytest.mark.parametrize("options", [{}, {"max_concurrency": 2}])
def test_a_stream_that_raises_is_called_again_and_goes_on(
    kind: type, options: dict[str, Any]
) -> None:
    actor: Any = ray.remote(kind).options(**options).remote()
    assert _taken(actor.give.remote(2)) == ["a1", "b1", "c3"]
    assert ray.get(actor.count.remote()) == 3
    assert _taken(actor.give.remote(9)) == ["a4", "b4", _Passing]
    assert ray.get(actor.count.remote()) == 6
    window = actor.give.options(_generator_backpressure_num_objects=1).remote(7)
    assert _taken(window) == ["a7", "b7", "c8"]


def test_a_stream_that_is_shorter_at_its_next_attempt() -> None:
    actor: Any = ray.remote(_Again).remote()
    assert _taken(actor.shorter.remote()) == [1, 2]
    assert ray.get(actor.count.remote()) == 2


def test_a_stream_is_not_called_again_for_another_error() -> None:
    actor: Any = ray.remote(_Again).remote()
    assert len(_taken(actor.other.remote())) == 2
    assert ray.get(actor.count.remote()) == 1


def test_what_returned_no_generator_is_called_again_as_often_as_it_raises() -> None:
    actor: Any = ray.remote(_Again).remote()
    (error,) = _taken(actor.no_generator.remote())
    assert "is for generators" in error
    assert ray.get(actor.count.remote()) == 3


def test_a_task_that_streams_is_called_again(tmp_path: Path) -> None:
    @ray.remote(max_retries=2, retry_exceptions=[_Passing])
    def give(marks: Path) -> Iterator[int]:
        number = len(list(marks.iterdir()))
        (marks / str(number)).touch()
        yield number
        if number < 2:
            raise _Passing
        yield number

    assert _taken(give.remote(tmp_path)) == [0, 2]
