"""kill(), cancel(), and an actor that ends itself."""

from __future__ import annotations

import asyncio
import os
import time

from conformance.case import case
from conformance.checks import raises, submodule, wait_until


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _worker(ray, **options):
    class Worker:
        def __init__(self):
            self.done = []

        def work(self, seconds, name=None):
            time.sleep(seconds)
            self.done.append(name)
            return name

        def read(self):
            return self.done

        def pid(self):
            return os.getpid()

    return ray.remote(**options)(Worker) if options else ray.remote(Worker)


@case("kill() makes the running call raise ActorDiedError")
def kill_running(ray):
    worker = _worker(ray).remote()
    ray.get(worker.read.remote())
    ref = worker.work.remote(30)
    time.sleep(0.2)
    ray.kill(worker)
    with raises(ray.exceptions.ActorDiedError):
        ray.get(ref)


@case("kill() makes the calls that wait raise ActorDiedError")
def kill_waiting(ray):
    worker = _worker(ray).remote()
    refs = [worker.work.remote(30), worker.read.remote(), worker.read.remote()]
    ray.kill(worker)
    for ref in refs:
        with raises(ray.exceptions.ActorDiedError):
            ray.get(ref)


@case(
    "Calls to an actor that kill() has ended raise ActorDiedError at get()",
    better="That goes for every call made after kill(); in Ray one may still run.",
)
def call_after_kill(ray):
    worker = _worker(ray).remote()
    ray.get(worker.read.remote())
    ray.kill(worker)
    _wait_until_dead(ray, worker)
    with raises(ray.exceptions.ActorDiedError):
        ray.get(worker.read.remote())


@call_after_kill.ours
def no_call_after_kill_runs(ray):
    for _ in range(4):
        worker = _worker(ray).remote()
        ray.get(worker.read.remote())
        ray.kill(worker)
        with raises(ray.exceptions.ActorDiedError):
            ray.get(worker.read.remote())


def _wait_until_dead(ray, worker):
    def dead():
        try:
            ray.get(worker.read.remote())
        except ray.exceptions.RayActorError:
            return True
        return False

    wait_until(dead, "the actor's end")


@case("The error after kill() says that it was killed with ray.kill")
def kill_message(ray):
    worker = _worker(ray).remote()
    ray.get(worker.read.remote())
    ray.kill(worker)
    _wait_until_dead(ray, worker)
    with raises(ray.exceptions.ActorDiedError, match="kill"):
        ray.get(worker.read.remote())


@case("kill() ends the actor's process")
def kill_ends_the_process(ray):
    worker = _worker(ray).remote()
    pid = ray.get(worker.pid.remote())
    ray.kill(worker)
    wait_until(lambda: not _alive(pid), "the process's end")


@case("kill() twice is no error")
def kill_twice(ray):
    worker = _worker(ray).remote()
    ray.get(worker.read.remote())
    ray.kill(worker)
    ray.kill(worker)


@case("kill() of an actor that is being created works")
def kill_pending(ray):
    @ray.remote
    class Slow:
        def __init__(self):
            time.sleep(20)

        def one(self):
            return 1

    slow = Slow.remote()
    ref = slow.one.remote()
    ray.kill(slow)
    with raises(ray.exceptions.ActorDiedError):
        ray.get(ref)


@case("kill() of something else than a handle raises")
def kill_no_handle(ray):
    with raises(ValueError, TypeError):
        ray.kill(ray.put(1))
    with raises(ValueError, TypeError):
        ray.kill(3)


@case("kill() gives the actor's resources back")
def kill_frees_resources(ray):
    Holder = _worker(ray, resources={"disk": 4})
    first = Holder.remote()
    ray.get(first.read.remote())
    second = Holder.remote()
    ray.kill(first)
    assert ray.get(second.read.remote(), timeout=15) == []


@case("kill() works by a handle that came from elsewhere")
def kill_by_another_handle(ray):
    worker = _worker(ray).remote()
    ray.get(worker.read.remote())

    @ray.remote
    def end(handle):
        ray.kill(handle)

    ray.get(end.remote(worker))
    _wait_until_dead(ray, worker)
    with raises(ray.exceptions.ActorDiedError):
        ray.get(worker.read.remote())


@case("Results from before kill() can still be had")
def results_survive_kill(ray):
    worker = _worker(ray).remote()
    ref = worker.work.remote(0, "result")
    ray.wait([ref])
    ray.kill(worker)
    assert ray.get(ref) == "result"


@case("kill() of a task's ref is refused: tasks are cancelled")
def kill_a_task(ray):
    @ray.remote
    def work():
        time.sleep(0.1)

    ref = work.remote()
    with raises(ValueError, TypeError):
        ray.kill(ref)
    ray.get(ref)


@case("exit_actor() ends the actor; the call that did it raises ActorDiedError")
def exit_actor(ray):
    @ray.remote
    class Actor:
        def one(self):
            return 1

        def leave(self):
            ray.actor.exit_actor()

    actor = Actor.remote()
    ray.get(actor.one.remote())
    with raises(ray.exceptions.RayActorError):
        ray.get(actor.leave.remote())
    with raises(ray.exceptions.ActorDiedError):
        ray.get(actor.one.remote())


@case("exit_actor() runs atexit handlers: the process ends in order")
def exit_actor_is_graceful(ray):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        mark = Path(folder) / "left"

        @ray.remote
        class Actor:
            def __init__(self):
                import atexit

                atexit.register(mark.touch)

            def leave(self):
                ray.actor.exit_actor()

        actor = Actor.remote()
        with raises(ray.exceptions.RayActorError):
            ray.get(actor.leave.remote())
        wait_until(mark.exists, "the atexit handler")


@case("exit_actor() ends an asyncio actor too")
def exit_actor_async(ray):
    @ray.remote
    class Actor:
        async def one(self):
            return 1

        async def leave(self):
            ray.actor.exit_actor()

    actor = Actor.remote()
    ray.get(actor.one.remote())
    with raises(ray.exceptions.RayActorError):
        ray.get(actor.leave.remote())
    with raises(ray.exceptions.ActorDiedError):
        ray.get(actor.one.remote())


@case("exit_actor() outside of an actor raises TypeError")
def exit_actor_outside(ray):
    with raises(TypeError):
        ray.actor.exit_actor()


@case("__ray_terminate__ ends the actor after the calls before it")
def ray_terminate(ray):
    worker = _worker(ray).remote()
    refs = [worker.work.remote(0.1, n) for n in range(3)]
    worker.__ray_terminate__.remote()
    assert ray.get(refs) == [0, 1, 2]
    _wait_until_dead(ray, worker)


@case(
    "cancel() of a call that waits in an actor's queue: it does not run",
    deviates="raises TaskCancelledError, and runs the call all the same",
)
def cancel_queued(ray):
    worker = _worker(ray).remote()
    ray.get(worker.read.remote())
    running = worker.work.remote(1.0, "first")
    queued = worker.work.remote(0, "second")
    time.sleep(0.2)
    ray.cancel(queued)
    with raises(ray.exceptions.TaskCancelledError):
        ray.get(queued)
    ray.get(running)
    assert ray.get(worker.read.remote()) == ["first"]


@case("cancel() of a running plain method does not interrupt it; is_canceled() becomes true")
def cancel_running_method(ray):
    @ray.remote
    class Actor:
        def work(self):
            for _ in range(100):
                if ray.get_runtime_context().is_canceled():
                    return "stopped"
                time.sleep(0.05)
            return "never told"

        def one(self):
            return 1

    actor = Actor.remote()
    ray.get(actor.one.remote())
    ref = actor.work.remote()
    time.sleep(0.3)
    ray.cancel(ref)
    begun = time.monotonic()
    with raises(ray.exceptions.TaskCancelledError):
        ray.get(ref)
    assert ray.get(actor.one.remote()) == 1
    assert time.monotonic() - begun < 3


@case("is_canceled() is false in a call that nobody cancelled")
def is_canceled_false(ray):
    @ray.remote
    class Actor:
        def told(self):
            return ray.get_runtime_context().is_canceled()

    assert ray.get(Actor.remote().told.remote()) is False


@case("cancel() of a running async method raises CancelledError in it")
def cancel_running_async(ray):
    @ray.remote
    class Actor:
        def __init__(self):
            self.seen = []

        async def work(self):
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                self.seen.append("cancelled")
                raise

        async def read(self):
            return self.seen

    actor = Actor.remote()
    ray.get(actor.read.remote())
    ref = actor.work.remote()
    time.sleep(0.3)
    ray.cancel(ref)
    with raises(ray.exceptions.TaskCancelledError):
        ray.get(ref)
    wait_until(lambda: ray.get(actor.read.remote()) == ["cancelled"], "CancelledError")


@case("cancel() of a running task interrupts it: TaskCancelledError")
def cancel_running_task(ray):
    @ray.remote
    def work():
        for _ in range(300):
            time.sleep(0.1)

    ref = work.remote()
    time.sleep(0.7)
    ray.cancel(ref)
    with raises(ray.exceptions.TaskCancelledError):
        ray.get(ref, timeout=10)


@case("cancel(force=True) kills a running task's process")
def cancel_force(ray):
    @ray.remote(max_retries=0)
    def work():
        while True:
            try:
                time.sleep(100)
            except KeyboardInterrupt:
                continue

    ref = work.remote()
    time.sleep(0.7)
    ray.cancel(ref, force=True)
    with raises(ray.exceptions.WorkerCrashedError, ray.exceptions.TaskCancelledError):
        ray.get(ref, timeout=10)


@case("cancel(force=True) of an actor's call raises ValueError: kill() is for that")
def cancel_force_actor(ray):
    worker = _worker(ray).remote()
    ref = worker.work.remote(0.5)
    with raises(ValueError):
        ray.cancel(ref, force=True)
    ray.get(ref)


@case("cancel() of a task that waits for its argument: it does not run")
def cancel_waiting_for_argument(ray):
    @ray.remote
    def after(_value):
        return "ran"

    slow = _worker(ray).remote().work.remote(2)
    ref = after.remote(slow)
    ray.cancel(ref)
    with raises(ray.exceptions.TaskCancelledError):
        ray.get(ref, timeout=10)


@case("cancel() of a task that waits for resources: it does not run")
def cancel_waiting_for_resources(ray):
    Holder = _worker(ray, resources={"disk": 4})
    holder = Holder.remote()
    ray.get(holder.read.remote())

    @ray.remote(resources={"disk": 1})
    def work():
        return "ran"

    ref = work.remote()
    time.sleep(0.2)
    ray.cancel(ref)
    with raises(ray.exceptions.TaskCancelledError):
        ray.get(ref, timeout=10)


@case("cancel() of a call that is over does nothing; its value stays")
def cancel_finished(ray):
    ref = _worker(ray).remote().work.remote(0, "value")
    ray.wait([ref])
    ray.cancel(ref)
    assert ray.get(ref) == "value"


@case("cancel() of something that is no ref raises TypeError")
def cancel_no_ref(ray):
    with raises(TypeError):
        ray.cancel(3)


@case("cancel() cancels what the task called as well, by default")
def cancel_recursive(ray):
    @ray.remote
    class Board:
        def __init__(self):
            self.notes = []

        def note(self, x):
            self.notes.append(x)

        def read(self):
            return self.notes

    @ray.remote
    def child(board):
        try:
            for _ in range(60):
                time.sleep(0.1)
            ray.get(board.note.remote("finished"))
        except BaseException:
            ray.get(board.note.remote("interrupted"))
            raise

    @ray.remote
    def parent(board):
        ref = child.remote(board)
        ray.get(board.note.remote("started"))
        ray.get(ref)

    board = Board.remote()
    ref = parent.remote(board)
    wait_until(lambda: ray.get(board.read.remote()) == ["started"], "the parent")
    time.sleep(1.0)
    ray.cancel(ref)
    with raises(ray.exceptions.TaskCancelledError):
        ray.get(ref, timeout=10)
    wait_until(lambda: "interrupted" in ray.get(board.read.remote()), "the child's end", 8)


@case("cancel(recursive=False) leaves what the task called alone")
def cancel_not_recursive(ray):
    @ray.remote
    class Board:
        def __init__(self):
            self.notes = []

        def note(self, x):
            self.notes.append(x)

        def read(self):
            return self.notes

    @ray.remote
    def child(board):
        ray.get(board.note.remote("started"))
        time.sleep(1.5)
        ray.get(board.note.remote("finished"))

    @ray.remote
    class Parent:
        async def run(self, board):
            await child.remote(board)

    board, parent = Board.remote(), Parent.remote()
    ref = parent.run.remote(board)
    wait_until(lambda: ray.get(board.read.remote()) == ["started"], "the child")
    ray.cancel(ref, recursive=False)
    with raises(ray.exceptions.TaskCancelledError):
        ray.get(ref, timeout=10)
    wait_until(lambda: "finished" in ray.get(board.read.remote()), "the child's end")


@case("An actor goes on working after a call of it was cancelled")
def actor_after_cancel(ray):
    @ray.remote
    class Actor:
        async def work(self, seconds):
            await asyncio.sleep(seconds)
            return "slept"

    actor = Actor.remote()
    ref = actor.work.remote(20)
    time.sleep(0.5)
    ray.cancel(ref)
    with raises(ray.exceptions.TaskCancelledError):
        ray.get(ref)
    assert ray.get(actor.work.remote(0)) == "slept"


@case("TaskCancelledError says which task it was")
def cancelled_error_names_it(ray):
    worker = _worker(ray).remote()
    ray.get(worker.read.remote())
    worker.work.remote(0.5)
    ref = worker.work.remote(0)
    ray.cancel(ref)
    with raises(ray.exceptions.TaskCancelledError, match="(?i)cancel"):
        ray.get(ref)


@case("ray.actor is a module of the package, with ActorHandle and exit_actor")
def actor_module(ray):
    actor = submodule(ray, "actor")
    assert callable(actor.exit_actor)
    assert isinstance(actor.ActorHandle, type)


def _outcome_of(ray):
    @ray.remote(num_cpus=0)
    def outcome(refs):
        try:
            ray.get(refs[0], timeout=20)
        except Exception as error:
            return type(error).__name__
        return "a value"

    return outcome


@case("kill() makes the call raise ActorDiedError also in a task that got its ref in a list")
def kill_told_to_others(ray):
    worker, outcome = _worker(ray).remote(), _outcome_of(ray)
    ref = worker.work.remote(60)
    before = outcome.remote([ref])
    time.sleep(1)
    ray.kill(worker)
    assert ray.get(before, timeout=30) == "ActorDiedError"
    assert ray.get(outcome.remote([ref]), timeout=30) == "ActorDiedError"


@case("A task that is cancelled before it runs raises also in a task that got its ref in a list")
def cancel_told_to_others(ray):
    outcome = _outcome_of(ray)

    @ray.remote(num_cpus=0)
    def late(_):
        pass

    worker = _worker(ray).remote()
    ref = late.remote(worker.work.remote(30))
    before = outcome.remote([ref])
    time.sleep(1)
    ray.cancel(ref)
    assert ray.get(before, timeout=30) == "TaskCancelledError"
    ray.kill(worker)


@case("cancel() works on a ref that came inside a value from the task that made the call")
def cancel_borrowed(ray):
    @ray.remote(num_cpus=0)
    def sleeps():
        for _ in range(600):  # Ray interrupts a task between two steps of the interpreter
            time.sleep(0.1)

    @ray.remote(num_cpus=0)
    def starts():
        return [sleeps.remote()]

    ref = ray.get(starts.remote(), timeout=20)[0]
    time.sleep(1)
    ray.cancel(ref)
    with raises(ray.exceptions.TaskCancelledError):
        ray.get(ref, timeout=12)


@case("A coroutine of an actor that was cancelled raises a RayTaskError, though it caught that")
def cancelled_coroutine_that_returns(ray):
    @ray.remote
    class Actor:
        def __init__(self):
            self.begun = False

        async def sleep(self):
            self.begun = True
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return "caught"

        async def has_begun(self):
            return self.begun

    actor = Actor.remote()
    ref = actor.sleep.remote()
    wait_until(lambda: ray.get(actor.has_begun.remote()), "the call to begin")
    ray.cancel(ref)
    with raises(ray.exceptions.RayTaskError) as raised:
        ray.get(ref, timeout=12)
    assert isinstance(raised.value, ray.exceptions.TaskCancelledError)
