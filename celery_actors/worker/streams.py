"""The producer's side of a stream: what a generator yields leaves as it is yielded.

Each value is stored under an id of its own and pushed to the caller.  The call's return
value, stored at its end, is their number, so that a caller which lost pushes knows what to
read from the store.  An exception in the generator becomes the stream's last value, or has
the generator called again (``retry_exceptions``): what was sent before is not sent again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from celery_actors.ids import item_sequence, object_id
from celery_actors.store.results import Result
from celery_actors.worker.commits import Commits
from celery_actors.worker.forked import leave_child
from celery_actors.worker.raised import is_result
from celery_actors.worker.runner import Run, Runner, shielded

if TYPE_CHECKING:
    from celery_actors.client.process import Process

__all__ = ["Producer", "produce", "produce_async"]

_LOOK_EVERY = 5.0
_AGAIN: Any = object()  # stands for a generator that is still to be made by another call


class Producer:
    """Sends the values of one generator, and waits for its consumer where it must."""

    def __init__(self, process: Process, commits: Commits, runner: Runner, run: Run) -> None:
        self._process = process
        self._commits = commits
        self._runner = runner
        self._run = run
        self._credit = run.options.window
        self.count = 0
        """How many values were sent."""
        self._passed = 0  # how many values this attempt has yielded
        self._sent = False  # the last one

    def _place(self) -> tuple[bytes, int, int]:
        call = self._run.call
        sequence, place = item_sequence(call.task, self.count)
        return object_id(call.caller, sequence, place), sequence, place

    def begin(self) -> None:
        """An attempt begins."""
        self._passed = 0

    def send(self, value: Any) -> None:
        """Send one value, unless an earlier attempt has sent the value of that place."""
        if self._runner.is_child:
            leave_child(None)
        self._passed += 1
        self._sent = self._passed > self.count
        if self._sent:
            self._commit(self._runner.stored(self._run.call, value, *self._place()))

    def begins_again(self, error: BaseException) -> bool:
        """Whether the generator, which raised, is called again.  If not, its error is sent.

        :raises BaseException: ``error``, if that is no result.
        """
        if self._runner.is_child:
            leave_child(error)
        if not is_result(error, self._run.cancelled):
            raise error
        if self._runner.runs_again(self._run, error):
            return True
        self._commit(self._runner.stored_error(self._run.call, error, *self._place()))
        return False

    def _commit(self, result: Result) -> None:
        with shielded(self._run):
            self._commits.add_values(self._run.call.caller, [result])
            self.count += 1

    @property
    def must_wait(self) -> bool:
        """Whether the consumer has to take a value before the next may be made."""
        if self._run.options.window < 0 or not self._sent:
            return False
        self._credit -= 1
        return self._credit < 0

    def wait(self) -> bool:
        """Wait until the consumer has taken a value; False: nobody consumes any more."""
        call, process = self._run.call, self._process
        while not self._run.cancelled:
            if process.results.take_credit(call.caller, call.task, _LOOK_EVERY):
                self._credit += 1
                return True
            if not process.control.caller_alive(call.caller.hex()):
                return False
        return False


def produce(producer: Producer, run: Run, generator: Any, again: Callable[[], Any]) -> int:
    """Send all that ``generator`` yields; returns how many values there were.

    :param again: calls the function again, which raised what it is to be retried after.
    """
    if isinstance(generator, AsyncIterable):  # of a plain method that wraps an async generator
        return asyncio.run(produce_async(producer, generator, again))
    while True:
        producer.begin()
        try:
            for value in _iterate(again() if generator is _AGAIN else generator):
                producer.send(value)
                if run.cancelled or (producer.must_wait and not producer.wait()):
                    break
        except BaseException as error:  # noqa: BLE001 - raised again where it is no result
            if producer.begins_again(error):
                generator = _AGAIN
                continue
        return producer.count


async def produce_async(producer: Producer, generator: Any, again: Callable[[], Any]) -> int:
    """As :func:`produce`, on an event loop; takes both kinds of generators."""
    while True:
        producer.begin()
        try:
            await _send_all(producer, again() if generator is _AGAIN else generator)
        except BaseException as error:  # noqa: BLE001 - raised again where it is no result
            if producer.begins_again(error):
                generator = _AGAIN
                continue
        return producer.count


async def _send_all(producer: Producer, generator: Any) -> None:
    if isinstance(generator, AsyncIterable):
        async for value in generator:
            producer.send(value)
            if producer.must_wait and not await asyncio.to_thread(producer.wait):
                break
        return
    for value in _iterate(generator):
        producer.send(value)
        if producer.must_wait and not await asyncio.to_thread(producer.wait):
            break
        await asyncio.sleep(0)  # other calls of the actor get their turn


def _iterate(generator: Any) -> Iterator[Any]:
    if not isinstance(generator, Iterable):
        raise TypeError(
            f"num_returns='streaming' is for generators, and {type(generator).__qualname__} is "
            "none: yield the values, or return a list"
        )
    return iter(generator)
