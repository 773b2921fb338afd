"""Running one call: from its payload to the results that are to be committed.

Shared by the executors, which differ in when and in which thread a call runs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from celery_actors import serialization
from celery_actors.exceptions import (
    ActorDiedError,
    ActorsError,
    ActorUnavailableError,
    TaskCancelledError,
)
from celery_actors.ids import call_owner, celery_id, object_id
from celery_actors.protocol.call_options import (
    DEFAULT_OPTIONS,
    decode_options,
    split_options,
)
from celery_actors.protocol.calls import Call, CallFlag
from celery_actors.protocol.concurrency import DEFAULT_GROUP
from celery_actors.serialization import Dumped
from celery_actors.store.results import Result
from celery_actors.worker.activity import Activity
from celery_actors.worker.cancellation import Cancellations, RunningCall
from celery_actors.worker.commits import Commits
from celery_actors.worker.dynamic import gather
from celery_actors.worker.exits import ActorExit
from celery_actors.worker.forked import leave_child
from celery_actors.worker.instance import NO_ARGUMENTS, Instance
from celery_actors.worker.raised import Ending, interrupts, is_a, task_error

if TYPE_CHECKING:
    from celery_actors.client.process import Process
    from celery_actors.worker.recorder import Recorder

__all__ = ["SPECIAL", "Run", "Runner", "current_run", "shielded"]

logger = logging.getLogger(__name__)

#: Exit status of an executor whose task called ``sys.exit()``.
EXIT_OF_TASK = 76

#: Flags of what is no call (see :meth:`Runner.is_special`).
SPECIAL = CallFlag.RELEASE | CallFlag.CANCELLED


def _call_in_actor(object_: Any, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    return function(object_, *args, **kwargs)


def _terminate(_object: Any) -> None:
    raise ActorExit("it was told to terminate (__ray_terminate__)")


_SYSTEM_METHODS: dict[str, Callable[..., Any]] = {
    "__ray_ready__": lambda _object: True,
    "__ray_call__": _call_in_actor,
    "__ray_terminate__": _terminate,
}


class Run(RunningCall):
    """One call that runs (or is about to).

    :ivar attempt: how often it was begun before.
    :ivar since: when it began (seconds of the epoch).
    :ivar observed: whether events are sent of it.
    """

    # Most calls leave these as they are.
    attempt = 0
    observed = False
    options = DEFAULT_OPTIONS
    unreadable: BaseException | None = None  # a user's class among the options: what it raised
    over = False
    since = 0.0
    shielded = False  # results of it are being committed
    owes_interruption = False  # one came meanwhile
    exits = False  # exit_actor() was called in it: it ends the actor, whatever it does then
    _interrupted = False

    def __init__(self, call: Call, describe: Callable[[str], str]) -> None:
        self.key = (call.caller, call.task)
        self.sequence = call.sequence
        self.call = call
        self.describe = describe
        self.payload = call.payload
        if call.flags & CallFlag.OPTIONS:
            pickled, self.payload = split_options(call.payload)
            try:
                self.options = decode_options(pickled)
            except BaseException as error:  # noqa: BLE001 - see worker.raised
                self.unreadable = error

    @property
    def task_id(self) -> str:
        """Celery's task id, without its dashes."""
        return celery_id(self.call.caller, self.call.task).replace("-", "")

    def be_interrupted(self) -> None:
        """Raise where the call is, in its thread; once, however often it is cancelled.

        :raises KeyboardInterrupt: it was not interrupted before, and is not shielded.
        """
        if self._interrupted:
            return
        self.owes_interruption = self.shielded
        if not self.shielded:
            self._interrupted = True
            raise KeyboardInterrupt

    @property
    def function(self) -> str:
        """What runs, for people: ``Counter.increment``."""
        return self.describe(self.call.method)


@contextmanager
def shielded(run: Run) -> Iterator[None]:
    """Hold an interruption of a call back while results are committed from within it.

    In between it would leave a commit half made, which would count as done.

    :raises KeyboardInterrupt: afterwards, if there was one.
    """
    run.shielded = True
    try:
        yield
    finally:
        run.shielded = False
    if run.owes_interruption:
        run.be_interrupted()


#: The call that this thread, or this asyncio task, runs.
current_run: ContextVar[Run | None] = ContextVar("current_run", default=None)


class Runner:
    """Begins and ends calls.  Used by the threads that run them.

    :ivar stop: why the actor is over, once it is.
    :ivar is_child: user code forked this process within a call.  Where it comes out of the call,
        it is to end (:func:`leave_child`): it must send nothing over the actor's connections.
    :param attempts: how often calls that the death of earlier incarnations interrupted were
        begun, by caller and sequence.
    """

    def __init__(
        self,
        process: Process,
        instance: Instance,
        commits: Commits,
        activity: Activity,
        cancellations: Cancellations,
        recorder: Recorder | None,
        attempts: Mapping[tuple[bytes, int], int],
    ) -> None:
        self._process = process
        self._instance = instance
        self._commits = commits
        self._activity = activity
        self._cancellations = cancellations
        self._recorder = recorder
        self._attempts = attempts
        self.is_child = False
        self.cancels_coroutines = False
        """Whether calls run on event loops."""
        self.stop: str | None = None
        self.ending: Ending | None = None
        """How user code ended the actor, if it did: what waits then is not run."""

    def forked(self) -> None:
        """User code has forked, and this process is the child."""
        self.is_child = True

    # -- before -----------------------------------------------------------------------

    def is_special(self, call: Call) -> bool:
        """Whether a call is none: it only takes a place among the caller's calls."""
        return bool(call.flags & SPECIAL)

    def do_special(self, call: Call) -> None:
        """Do what such a call stands for."""
        if call.flags & CallFlag.RELEASE:  # the caller's hold goes, behind its last call
            control, actor = self._process.control, self._process.actor_hex
            if control.release_hold(actor, call.payload.decode()):
                self.stop = "no handle to it is left"
            self._commits.add(call.caller, call.sequence, [])
        else:
            self._commits.add(call.caller, call.sequence, self.cancelled_results(call))

    def group(self, call: Call, groups: Container[str]) -> str:
        """Return the concurrency group in which a call runs."""
        if not call.flags & CallFlag.OPTIONS:
            return DEFAULT_GROUP
        try:
            group = decode_options(split_options(call.payload)[0]).group
        except BaseException:  # noqa: BLE001 - the call itself will raise it
            return DEFAULT_GROUP
        # The caller has checked the name; a class that changed since then has a default.
        return group if group is not None and group in groups else DEFAULT_GROUP

    def begin(self, call: Call) -> Run | None:
        """Begin a call; ``None``: it is not to run, and what is to be said was said."""
        run = Run(call, self._instance.describe)
        if not self._cancellations.start(run):
            withdrawn = self._cancellations.is_withdrawn(call.caller, call.sequence)
            results = [] if withdrawn else self.cancelled_results(call)
            self._commits.add(call.caller, call.sequence, results)
            return None
        if self._attempts:
            run.attempt = self._attempts.get((call.caller, call.sequence), 0)
            if run.attempt and not self._may_run_again(run):
                self._refuse(run)
                return None
        recorder = self._recorder
        if recorder is not None:
            while not recorder.started(call.caller, call.sequence):
                self._commits.settle()
        run.observed = self._activity.begin(call)
        if run.observed:
            run.since = time.monotonic()
        current_run.set(run)
        return run

    def interrupts(self, run: Run, interrupt: Callable[[], None]) -> None:
        """Say how a call that was begun is made to end; done at once if it was cancelled by now."""
        self._cancellations.interrupts(run, interrupt)

    def _may_run_again(self, run: Run) -> bool:
        retries = run.options.retries
        return retries < 0 or run.attempt <= retries

    def _refuse(self, run: Run) -> None:
        """The death of the process interrupted this call, and nothing says to repeat it."""
        self._cancellations.end(run)
        name = self._instance.describe(run.call.method)
        error = ActorUnavailableError(
            f"{name} was interrupted by the death of the actor's process (attempt {run.attempt}); "
            "the actor was begun again, but the call may have had its effects and is not repeated: "
            "give it max_task_retries if it may be",
            self._process.actor_hex,
        )
        self._commits.add(run.call.caller, run.call.sequence, self._errors(run.call, error))

    def prepare(self, run: Run) -> tuple[Callable[..., Any], Sequence[Any], Mapping[str, Any]]:
        """Return what is to be called, with its arguments."""
        call, instance = run.call, self._instance
        if run.unreadable is not None:
            raise run.unreadable
        if run.payload == NO_ARGUMENTS:
            args: Sequence[Any] = ()
            kwargs: dict[str, Any] = {}
        else:
            args, kwargs = instance.arguments(run.payload, call.flags, self._source(call))
        system = _SYSTEM_METHODS.get(call.method)
        if system is not None:
            return system, (instance.object, *args), kwargs
        return instance.target(call.method), args, kwargs

    def _source(self, call: Call) -> str:
        """Under which a call holds the actors whose handles are inside."""
        if not call.flags & CallFlag.HANDLES:
            return ""
        return call_owner(call.caller.hex(), call.sequence, self._process.actor_hex)

    # -- after ------------------------------------------------------------------------

    def runs_again(self, run: Run, error: BaseException) -> bool:
        """Whether a call that raised is run again, in its place."""
        options = run.options
        if not options.retry_exceptions or run.cancelled or self.is_child:
            return False
        if is_a(error, SystemExit) or is_a(error, TaskCancelledError):
            return False
        try:
            wanted = options.retries_after(error)
        except BaseException:  # noqa: BLE001 - of a user's metaclass: the call has its own error
            return False
        if not wanted:
            return False
        run.attempt += 1
        return self._may_run_again(run)

    def end(self, run: Run, value: Any, error: BaseException | None) -> None:
        """A call is over: have its results committed.

        :param error: what user code raised.
        """
        if self.is_child:
            leave_child(error)
        call = run.call
        run.over = True
        self._cancellations.end(run)
        failure: ActorsError | None = None
        if error is not None or run.cancelled or run.exits:
            failure = self._failure(run, error)
        error = None  # its traceback refers to this frame: together they would keep the arguments
        results: Sequence[Result] = []
        if failure is None and not call.flags & CallFlag.STORE_NOTHING:
            results, failure = self._results(run, value)
        del value
        if self.ending is not None and self.ending.crash is not None:
            return  # as if the process had died by now: its successor may run the call again
        if failure is not None:
            if call.flags & CallFlag.STORE_NOTHING:
                logger.info("a call whose result nobody holds failed: %s", failure)
            else:
                results = [*results, *self._errors(call, failure, len(results))]
        self._activity.end(
            call,
            failure,
            time.monotonic() - run.since if run.observed else None,
            run.attempt,
            run.options.name,
        )
        failure = None
        self._commits.add(call.caller, call.sequence, results)

    def _failure(self, run: Run, error: BaseException | None) -> ActorsError | None:
        """Return what getters of a call get in place of a value, if they do."""
        if run.exits and not (error is not None and is_a(error, ActorExit)):
            error = ActorExit("exit_actor() was called")  # its own was caught
        if error is None:
            # A call that was cancelled saw that, or was too quick to.
            return self.cancelled(run) if run.cancelled else None
        if is_a(error, SystemExit):
            return self.exited(error, self._instance.describe(run.call.method))
        if interrupts(error, run.cancelled):
            return self.cancelled(run)
        # Of a call whose arguments failed the function has not been loaded.
        return task_error(self._instance.full_name(run.call.method), error)

    def exited(self, error: SystemExit, where: str) -> ActorsError:
        """User code ends the process: returns what getters of that call get."""
        ending = Ending.by(error, where)
        if self._instance.is_executor and ending.crash is None:
            ending = ending._replace(crash=EXIT_OF_TASK)  # no task is meant to end its process
        self.leave(ending)
        actor = self._process.actor_hex
        return ActorDiedError(f"actor {actor} ended: {ending.why}", actor)

    def leave(self, ending: Ending) -> None:
        """Begin no more calls: user code ends the process.  Any thread."""
        if self.ending is None:
            self.ending = ending
            self.stop = ending.why

    @property
    def crashed(self) -> bool:
        """Whether user code ended the process in a way that counts as a crash."""
        return self.ending is not None and self.ending.crash is not None

    def cancelled(self, run: Run) -> ActorsError:
        """Return the error of a call that was cancelled while it ran.

        For a coroutine the error is also a :class:`TaskError` (as Ray's): the cancellation was
        raised in it.
        """
        name = self._instance.describe(run.call.method)
        error = TaskCancelledError(f"{name} was cancelled")
        return task_error(name, error) if self.cancels_coroutines else error

    def cancelled_results(self, call: Call) -> Sequence[Result]:
        """Return the results of a call that never ran, since it was cancelled."""
        if call.flags & CallFlag.STORE_NOTHING:
            return []
        name = self._instance.describe(call.method)
        return self._errors(call, TaskCancelledError(f"{name} was cancelled before it ran"))

    def cancelled_result(self, caller: bytes, task: int) -> Result:
        """Return the (first) result of a call that waits in the mailbox and was cancelled."""
        error = TaskCancelledError(f"a call to actor {self._process.actor_hex} was cancelled")
        return self._stored_failure(error, object_id(caller, task), task, 0)

    def _values(self, run: Run, value: Any) -> Sequence[Any]:
        returns = run.call.returns
        if returns == 1:
            return (value,)
        if returns == 0:
            return ()
        try:
            parts = iter(value)
        except TypeError:
            parts = iter((value,))
        values = tuple(parts)
        if len(values) != returns:
            raise ValueError(
                f"{self._instance.describe(run.call.method)} was called with num_returns="
                f"{returns} and returned {len(values)} value(s): return a tuple or list of "
                f"exactly {returns}"
            )
        return values

    def _results(self, run: Run, value: Any) -> tuple[Sequence[Result], ActorsError | None]:
        """Return what is to be stored, and the error in place of the values that are missing."""
        call = run.call
        if call.returns > 1 and isinstance(value, Iterator):
            return self._results_of_iterator(run, value)
        try:
            if run.options.dynamic:
                value = gather(
                    self._process,
                    value,
                    partial(self._dump, call),
                    partial(self._failure, run),
                )
            frames = serialization.dump_flat(value) if call.returns == 1 else None
            if frames is not None:
                oid = object_id(call.caller, call.task)
                blob = self._process.codec.encode_flat(oid, frames)
                return ((oid, call.task, 0, blob, False),), None
            # All of them before any is stored: stored values keep what is inside them, and
            # when one can't be pickled nobody will ever release the others.
            dumped = [self._dump(call, part) for part in self._values(run, value)]
            results = [
                self._store(call, part, object_id(call.caller, call.task, index), call.task, index)
                for index, part in enumerate(dumped)
            ]
        except BaseException as error:  # noqa: BLE001 - user code runs in it and raises anything
            return [], self._failure(run, error)
        return results, None

    def _results_of_iterator(
        self, run: Run, values: Iterator[Any]
    ) -> tuple[Sequence[Result], ActorsError | None]:
        """Return the results of a generator with a fixed number of values (as Ray's).

        What it yielded before it raised, or before it ended too early, is stored.  What it would
        yield beyond that number is not asked for.
        """
        call, dumped, failure = run.call, list[Dumped](), None
        try:
            dumped.extend(self._dump(call, value) for value in islice(values, call.returns))
            if len(dumped) < call.returns:
                raise ValueError(
                    f"{self._instance.describe(call.method)} was called with num_returns="
                    f"{call.returns} and yielded {len(dumped)} value(s)"
                )
        except BaseException as error:  # noqa: BLE001 - user code runs in it and raises anything
            failure = self._failure(run, error)
        return [
            self._store(call, part, object_id(call.caller, call.task, index), call.task, index)
            for index, part in enumerate(dumped)
        ], failure

    def _dump(self, call: Call, value: Any) -> Dumped:
        return serialization.dumps(
            value, lambda: f"the result of {self._instance.describe(call.method)}"
        )

    def _store(self, call: Call, dumped: Dumped, oid: bytes, sequence: int, place: int) -> Result:
        if dumped.actors or dumped.objects:
            # The stored value keeps them before this process may let them go.
            self._process.hold_contents(dumped, f"{call.caller.hex()}/o{sequence}.{place}")
        blob = self._process.codec.encode(oid, dumped)
        return oid, sequence, place, blob, bool(dumped.actors or dumped.objects)

    def stored(self, call: Call, value: Any, oid: bytes, sequence: int, place: int) -> Result:
        """Return a value of a call in its stored form, under the id that has these parts.

        :raises SerializationError: it can't be pickled.
        """
        return self._store(call, self._dump(call, value), oid, sequence, place)

    def stored_error(
        self, call: Call, error: BaseException, oid: bytes, sequence: int, place: int
    ) -> Result:
        """Return what getters of that value get in its place, since user code raised."""
        failure = task_error(self._instance.describe(call.method), error)
        return self._stored_failure(failure, oid, sequence, place)

    def _stored_failure(
        self, failure: ActorsError, oid: bytes, sequence: int, place: int
    ) -> Result:
        return oid, sequence, place, self._process.codec.encode_error(oid, failure), False

    def _errors(self, call: Call, failure: ActorsError, first: int = 0) -> Sequence[Result]:
        """Return an error in place of each value of a call, from that place on."""
        return [
            self._stored_failure(
                failure, object_id(call.caller, call.task, index), call.task, index
            )
            for index in range(first, call.returns)
        ]
