"""What user code raises, what dies, and the classes of errors."""

from __future__ import annotations

import os
import pickle
import sys

from conformance.case import case
from conformance.checks import raises


class Custom(Exception):
    def __init__(self, code, *, hint="none"):
        super().__init__(f"code {code}")
        self.code = code
        self.hint = hint

    def __reduce__(self):
        return _rebuild, (self.code, self.hint)


def _rebuild(code, hint):
    return Custom(code, hint=hint)


def _failing(ray):
    @ray.remote
    class Failing:
        def __init__(self):
            self.calls = 0

        def fail(self, error):
            self.calls += 1
            raise error

        def count(self):
            return self.calls

    return Failing


@case("What a method raises is raised by get() as an instance of its own class")
def user_class(ray):
    with raises(ValueError, match="wrong"):
        ray.get(_failing(ray).remote().fail.remote(ValueError("wrong")))


@case("What get() raises for user code is also a RayTaskError")
def is_a_task_error(ray):
    with raises(ray.exceptions.RayTaskError):
        ray.get(_failing(ray).remote().fail.remote(ValueError("wrong")))


@case("Every error of the system and of tasks is caught by except RayError")
def is_a_ray_error(ray):
    with raises(ray.exceptions.RayError):
        ray.get(_failing(ray).remote().fail.remote(ValueError("wrong")))


@case("The text has the remote traceback: the method and the line that raised")
def remote_traceback(ray):
    @ray.remote
    class Deep:
        def outer(self):
            self.inner_of_deep()

        def inner_of_deep(self):
            raise RuntimeError("at the bottom")

    with raises(RuntimeError) as raised:
        ray.get(Deep.remote().outer.remote())
    text = str(raised.value)
    assert "inner_of_deep" in text
    assert "at the bottom" in text
    assert "Deep.outer" in text


@case("The traceback names what an exception was raised from")
def chained(ray):
    @ray.remote
    def fail():
        try:
            raise KeyError("the cause")
        except KeyError as error:
            raise ValueError("the effect") from error

    with raises(ValueError) as raised:
        ray.get(fail.remote())
    assert "the cause" in str(raised.value)


@case(".cause of what get() raises is the user's exception itself")
def cause(ray):
    with raises(Custom) as raised:
        ray.get(_failing(ray).remote().fail.remote(Custom(7, hint="h")))
    assert type(raised.value.cause) is Custom
    assert raised.value.cause.code == 7


@case("The user's attributes can be read on what get() raises")
def attributes(ray):
    with raises(Custom) as raised:
        ray.get(_failing(ray).remote().fail.remote(Custom(7, hint="h")))
    assert (raised.value.code, raised.value.hint) == (7, "h")


@case("An actor lives on after a method has raised")
def actor_lives_on(ray):
    failing = _failing(ray).remote()
    for _ in range(3):
        with raises(ValueError):
            ray.get(failing.fail.remote(ValueError()))
    assert ray.get(failing.count.remote()) == 3


@case("One method's error does not touch the calls behind it")
def later_calls_run(ray):
    failing = _failing(ray).remote()
    refs = [failing.fail.remote(KeyError("k")), failing.count.remote()]
    assert ray.get(refs[1]) == 1
    with raises(KeyError):
        ray.get(refs[0])


@case("An exception that can't be pickled arrives as an error with its text")
def unpicklable(ray):
    @ray.remote
    def fail():
        import threading

        error = ValueError("has a lock")
        error.lock = threading.Lock()
        raise error

    with raises(ray.exceptions.RayError, match="has a lock"):
        ray.get(fail.remote())


@case(".cause of an exception that can't be pickled is a RayError that tells of it")
def cause_of_unpicklable(ray):
    @ray.remote
    def fail():
        import threading

        raise ValueError("has a lock", threading.Lock())

    with raises(ray.exceptions.RayTaskError) as raised:
        ray.get(fail.remote())
    assert type(raised.value) is ray.exceptions.RayTaskError
    assert type(raised.value.cause) is ray.exceptions.RayError
    assert "ValueError" in str(raised.value.cause)
    assert "has a lock" in str(raised.value.cause), "the traceback is in it"


@case("The error of a task whose argument failed names both, and says that it was an argument")
def argument_names_both(ray):
    @ray.remote
    def upstream():
        raise LookupError("no value")

    @ray.remote
    def downstream(value):
        return value

    with raises(LookupError) as raised:
        ray.get(downstream.remote(upstream.remote()))
    text = str(raised.value)
    assert text.index("downstream") < text.index("upstream")
    assert "could not be computed" in text
    assert "no value" in text


@case("The error of a nested get() names both tasks, and shows the line that called get()")
def nested_names_both(ray):
    @ray.remote
    def inner():
        raise LookupError("no value")

    @ray.remote
    def outer():
        return ray.get(inner.remote())  # here

    with raises(LookupError) as raised:
        ray.get(outer.remote())
    text = str(raised.value)
    assert text.index("outer") < text.index("ray.get(inner.remote())  # here")
    assert "raise LookupError" in text
    assert type(raised.value.cause) is LookupError


@case("An exception class that needs arguments to be made arrives all the same")
def needs_arguments(ray):
    @ray.remote
    def fail():
        class Needs(Exception):
            def __init__(self, a, b):
                super().__init__(f"{a} and {b}")

        raise Needs("one", "two")

    with raises(ray.exceptions.RayError, match="one and two"):
        ray.get(fail.remote())


@case("An exception that is returned, not raised, is a value")
def returned_exception(ray):
    @ray.remote
    def give():
        return ValueError("just a value")

    value = ray.get(give.remote())
    assert type(value) is ValueError
    assert value.args == ("just a value",)


@case("The same failed ref raises each time it is got")
def raises_every_time(ray):
    ref = _failing(ray).remote().fail.remote(KeyError("again"))
    for _ in range(2):
        with raises(KeyError, match="again"):
            ray.get(ref)


@case("An error in a nested task reaches the outermost get() as its own class")
def nested(ray):
    @ray.remote
    def inner():
        raise FileNotFoundError("deep down")

    @ray.remote
    def outer():
        return ray.get(inner.remote())

    with raises(FileNotFoundError, match="deep down"):
        ray.get(outer.remote())


@case("A task may catch the error of a task that it called")
def caught_in_a_task(ray):
    @ray.remote
    def inner():
        raise FileNotFoundError

    @ray.remote
    def outer():
        try:
            return ray.get(inner.remote())
        except FileNotFoundError:
            return "caught"

    assert ray.get(outer.remote()) == "caught"


@case(
    "What get() raised can be given to a task, in an argument",
    better="It also goes through plain pickle, as loggers and other libraries use it.",
)
def error_travels(ray):
    with raises(ValueError) as raised:
        ray.get(_failing(ray).remote().fail.remote(ValueError("travels")))

    @ray.remote
    def look(errors):
        return isinstance(errors[0], ValueError), str(errors[0])

    is_one, text = ray.get(look.remote([raised.value]))
    assert is_one
    assert "travels" in text


@error_travels.ours
def error_pickles(ray):
    with raises(ValueError) as raised:
        ray.get(_failing(ray).remote().fail.remote(ValueError("travels")))
    again = pickle.loads(pickle.dumps(raised.value))
    assert isinstance(again, ValueError)
    assert isinstance(again, ray.exceptions.RayTaskError)


@case("An error of get() can be raised again by a task and keeps its class")
def raised_again(ray):
    @ray.remote
    def fail():
        raise LookupError("first")

    @ray.remote
    def again(refs):
        ray.get(refs[0])

    with raises(LookupError, match="first"):
        ray.get(again.remote([fail.remote()]))


@case("An OSError keeps its errno")
def os_error(ray):
    @ray.remote
    def fail():
        with open("/no/such/file"):  # noqa: PTH123 - what it raises is what is tested
            pass

    with raises(FileNotFoundError) as raised:
        ray.get(fail.remote())
    assert raised.value.cause.errno == 2


@case("StopIteration in a method arrives as an error, and ends nothing else")
def stop_iteration(ray):
    failing = _failing(ray).remote()
    with raises(ray.exceptions.RayTaskError, StopIteration):
        ray.get(failing.fail.remote(StopIteration(3)))
    assert ray.get(failing.count.remote()) == 1


@case("A constructor that raises makes every call raise an error of the actor")
def failing_constructor(ray):
    @ray.remote
    class Broken:
        def __init__(self):
            raise RuntimeError("can't be made")

        def work(self):
            pass

    broken = Broken.remote()
    for _ in range(2):
        with raises(ray.exceptions.RayActorError, match="can't be made"):
            ray.get(broken.work.remote())


@case("The error of an actor whose constructor raised is ActorDiedError, with the traceback")
def failing_constructor_traceback(ray):
    @ray.remote
    class Broken:
        def __init__(self):
            self.step_of_constructor()

        def step_of_constructor(self):
            raise RuntimeError("can't be made")

        def work(self):
            pass

    with raises(ray.exceptions.ActorDiedError, match="step_of_constructor"):
        ray.get(Broken.remote().work.remote())


@case("A process that exits in a method makes the call raise ActorDiedError")
def exit_in_a_method(ray):
    @ray.remote
    class Actor:
        def end(self):
            os._exit(3)

        def one(self):
            return 1

    actor = Actor.remote()
    ray.get(actor.one.remote())
    ref = actor.end.remote()
    after = actor.one.remote()
    with raises(ray.exceptions.ActorDiedError):
        ray.get(ref)
    with raises(ray.exceptions.ActorDiedError):
        ray.get(after)


@case("Calls to an actor that is dead raise ActorDiedError at get()")
def call_the_dead(ray):
    @ray.remote
    class Actor:
        def end(self):
            os._exit(3)

        def one(self):
            return 1

    actor = Actor.remote()
    with raises(ray.exceptions.RayActorError):
        ray.get(actor.end.remote())
    with raises(ray.exceptions.ActorDiedError):
        ray.get(actor.one.remote())


@case("ActorDiedError names the actor's class and id")
def died_error_names_it(ray):
    @ray.remote
    class Doomed:
        def end(self):
            os._exit(3)

        def mine(self):
            return ray.get_runtime_context().get_actor_id()

    doomed = Doomed.remote()
    actor_id = ray.get(doomed.mine.remote())
    with raises(ray.exceptions.ActorDiedError) as raised:
        ray.get(doomed.end.remote())
    assert actor_id in str(raised.value)
    assert raised.value.actor_id == actor_id


@case("sys.exit() in a method ends the actor")
def sys_exit(ray):
    @ray.remote
    class Actor:
        def end(self):
            sys.exit(0)

        def one(self):
            return 1

    actor = Actor.remote()
    with raises(ray.exceptions.RayActorError):
        ray.get(actor.end.remote())
    with raises(ray.exceptions.ActorDiedError):
        ray.get(actor.one.remote())


@case("A task whose process dies raises WorkerCrashedError, without retries")
def task_process_dies(ray):
    @ray.remote(max_retries=0)
    def end():
        os._exit(3)

    with raises(ray.exceptions.WorkerCrashedError):
        ray.get(end.remote())


_CLASSES = {
    "RayTaskError": "RayError",
    "RayActorError": "RayError",
    "ActorDiedError": "RayActorError",
    "ActorUnavailableError": "RayActorError",
    "GetTimeoutError": "RayError",
    "TaskCancelledError": "RayError",
    "PendingCallsLimitExceeded": "RayError",
    "WorkerCrashedError": "RayError",
    "ObjectLostError": "RayError",
    "OwnerDiedError": "ObjectLostError",
    "ObjectFetchTimedOutError": "ObjectLostError",
    "ObjectReconstructionFailedError": "ObjectLostError",
    "ObjectFreedError": "ObjectLostError",
    "RuntimeEnvSetupError": "RayError",
    "RaySystemError": "RayError",
    "NodeDiedError": "RayError",
    "OutOfMemoryError": "RayError",
    "TaskUnschedulableError": "RayError",
    "ActorUnschedulableError": "RayError",
    "TaskPlacementGroupRemoved": "RayError",
    "ActorPlacementGroupRemoved": "RayError",
    "ActorAlreadyExistsError": "RayError",
    "ObjectStoreFullError": "RayError",
    "OutOfDiskError": "RayError",
    "AsyncioActorExit": "RayError",
}


@case("The classes of the documented errors are there and derive as documented")
def classes(ray):
    missing = [name for name in _CLASSES if not hasattr(ray.exceptions, name)]
    assert not missing, f"missing: {missing}"
    wrong = [
        name
        for name, base in _CLASSES.items()
        if not issubclass(getattr(ray.exceptions, name), getattr(ray.exceptions, base))
    ]
    assert not wrong, f"do not derive as documented: {wrong}"


@case("ActorDiedError can be raised and caught by programs without arguments")
def died_error_can_be_made(ray):
    with raises(ray.exceptions.RayActorError):
        raise ray.exceptions.ActorDiedError()


@case("ActorUnavailableError is no ActorDiedError: the actor may come back")
def unavailable_is_not_dead(ray):
    exceptions = ray.exceptions
    assert not issubclass(exceptions.ActorUnavailableError, exceptions.ActorDiedError)


@case("An error in a task's argument function is not mixed up with another task's")
def errors_stay_apart(ray):
    @ray.remote
    def fail(x):
        raise {0: KeyError, 1: ValueError, 2: TypeError}[x](x)

    refs = [fail.remote(x) for x in range(3)]
    for ref, kind in zip(refs, (KeyError, ValueError, TypeError), strict=True):
        with raises(kind):
            ray.get(ref)


class Stop(BaseException):
    pass


@case("A method's BaseException is raised by get(), and the actor lives on")
def base_exception(ray):
    failing = _failing(ray).remote()
    with raises(Stop):
        ray.get(failing.fail.remote(Stop("now")))
    assert ray.get(failing.count.remote()) == 1


@case("An async method's BaseException is raised by get(), and the actor lives on")
def base_exception_of_coroutine(ray):
    @ray.remote
    class Failing:
        async def fail(self):
            raise Stop("now")

        async def ok(self):
            return "ok"

    failing = Failing.remote()
    with raises(Stop):
        ray.get(failing.fail.remote())
    assert ray.get(failing.ok.remote()) == "ok"


@case("A task's BaseException is raised by get()")
def base_exception_of_task(ray):
    @ray.remote
    def fail():
        raise Stop("now")

    with raises(Stop):
        ray.get(fail.remote())


@case("A generator's BaseException is its last value")
def base_exception_of_generator(ray):
    @ray.remote
    def count():
        yield 1
        raise Stop("now")

    stream = count.remote()
    assert ray.get(next(stream)) == 1
    with raises(Stop):
        ray.get(next(stream))


@case("A constructor's BaseException is named by the ActorDiedError of its calls")
def base_exception_of_constructor(ray):
    @ray.remote
    class Failing:
        def __init__(self):
            raise Stop("now")

        def ok(self):
            return "ok"

    with raises(ray.exceptions.ActorDiedError, match="Stop"):
        ray.get(Failing.remote().ok.remote())


@case("A KeyboardInterrupt that a task raises is a TaskCancelledError for who gets it")
def keyboard_interrupt(ray):
    @ray.remote
    def fail():
        raise KeyboardInterrupt

    with raises(ray.exceptions.TaskCancelledError):
        ray.get(fail.remote())


@case("SystemExit in a task is a WorkerCrashedError")
def system_exit_of_task(ray):
    @ray.remote(max_retries=0)
    def leave():
        raise SystemExit("now")

    with raises(ray.exceptions.WorkerCrashedError):
        ray.get(leave.remote())


@case("sys.exit() with a status in a method is a crash: the actor is restarted, the call retried")
def system_exit_of_method(ray):
    @ray.remote(max_restarts=1, max_task_retries=1)
    class Leaves:
        def leave(self):
            if not ray.get_runtime_context().was_current_actor_reconstructed:
                sys.exit(3)
            return "stayed"

    assert ray.get(Leaves.remote().leave.remote()) == "stayed"


@case("An exception group is caught as one, with what is in it")
def group(ray):
    if sys.version_info < (3, 11):
        return

    @ray.remote
    def fail():
        raise ExceptionGroup("two", [ValueError("v"), TypeError("t")])  # noqa: F821

    with raises(ExceptionGroup) as raised:  # noqa: F821
        ray.get(fail.remote())
    assert isinstance(raised.value, ray.exceptions.RayTaskError)
    assert [type(one) for one in raised.value.exceptions] == [ValueError, TypeError]
