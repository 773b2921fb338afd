"""max_restarts, max_task_retries, retry_exceptions, and tasks that are tried again."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from conformance.case import case
from conformance.checks import raises, wait_until


@contextmanager
def _folder():
    """A folder in which processes leave marks that outlive them."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _mortal(ray, **options):
    class Mortal:
        def __init__(self, start=0):
            self.value = start

        def increment(self):
            self.value += 1
            return self.value

        def die(self):
            os._exit(1)

        def die_once(self, mark):
            if not mark.exists():
                mark.touch()
                os._exit(1)
            return "survived"

        def pid(self):
            return os.getpid()

        def context(self):
            context = ray.get_runtime_context()
            return context.get_actor_id(), context.was_current_actor_reconstructed

        def leave(self):
            ray.actor.exit_actor()

    return ray.remote(**options)(Mortal) if options else ray.remote(Mortal)


def _value_again(ray, call, seconds=12.0):
    """What the call gives once the actor is back."""

    def attempt():
        try:
            return [ray.get(call.remote())]
        except ray.exceptions.RayActorError:
            return None

    return wait_until(attempt, "the actor to answer again", seconds)[0]


@case("Without max_restarts an actor whose process dies stays dead")
def no_restart_by_default(ray):
    mortal = _mortal(ray).remote()
    with raises(ray.exceptions.RayActorError):
        ray.get(mortal.die.remote())
    for _ in range(2):
        with raises(ray.exceptions.ActorDiedError):
            ray.get(mortal.increment.remote())


@case("With max_restarts the actor begins again: its constructor runs with the same arguments")
def restarts(ray):
    mortal = _mortal(ray, max_restarts=1).remote(10)
    assert ray.get(mortal.increment.remote()) == 11
    with raises(ray.exceptions.RayActorError):
        ray.get(mortal.die.remote())
    assert _value_again(ray, mortal.increment) == 11


@case("A restarted actor is a new process with the same id")
def same_id(ray):
    mortal = _mortal(ray, max_restarts=1).remote()
    pid, (actor_id, _) = ray.get([mortal.pid.remote(), mortal.context.remote()])
    with raises(ray.exceptions.RayActorError):
        ray.get(mortal.die.remote())
    assert _value_again(ray, mortal.pid) != pid
    assert ray.get(mortal.context.remote())[0] == actor_id


@case("was_current_actor_reconstructed is false at first and true after a restart")
def was_reconstructed(ray):
    mortal = _mortal(ray, max_restarts=1).remote()
    assert ray.get(mortal.context.remote())[1] is False
    with raises(ray.exceptions.RayActorError):
        ray.get(mortal.die.remote())
    assert _value_again(ray, mortal.context)[1] is True


@case("After max_restarts restarts the actor is dead for good")
def restarts_run_out(ray):
    mortal = _mortal(ray, max_restarts=1).remote()
    ray.get(mortal.increment.remote())
    with raises(ray.exceptions.RayActorError):
        ray.get(mortal.die.remote())
    _value_again(ray, mortal.increment)
    with raises(ray.exceptions.RayActorError):
        ray.get(mortal.die.remote())

    def dead():
        try:
            ray.get(mortal.increment.remote())
        except ray.exceptions.ActorDiedError:
            return True
        except ray.exceptions.RayActorError:
            return False
        return False

    wait_until(dead, "ActorDiedError")


@case("max_restarts=-1 restarts the actor again and again")
def restarts_for_ever(ray):
    mortal = _mortal(ray, max_restarts=-1).remote()
    for _ in range(3):
        with raises(ray.exceptions.RayActorError):
            ray.get(mortal.die.remote())
        assert _value_again(ray, mortal.increment) == 1


@case("The call that runs when the process dies raises, without max_task_retries")
def interrupted_call_raises(ray):
    with _folder() as folder:
        mortal = _mortal(ray, max_restarts=1).remote()
        with raises(ray.exceptions.RayActorError):
            ray.get(mortal.die_once.remote(folder / "died"))
        assert _value_again(ray, mortal.increment) == 1


@case("The error of an interrupted call of a restarting actor is ActorUnavailableError")
def interrupted_call_is_unavailable(ray):
    with _folder() as folder:
        mortal = _mortal(ray, max_restarts=1).remote()
        with raises(ray.exceptions.ActorUnavailableError):
            ray.get(mortal.die_once.remote(folder / "died"))


@case("max_task_retries: an interrupted call runs again on the restarted actor")
def interrupted_call_is_retried(ray):
    with _folder() as folder:
        mortal = _mortal(ray, max_restarts=1, max_task_retries=1).remote()
        assert ray.get(mortal.die_once.remote(folder / "died")) == "survived"


@case("max_task_retries can be set for one method, by @method and by its .options()")
def retries_of_a_method(ray):
    @ray.remote(max_restarts=2)
    class Mortal:
        # More than one: Ray may use one up while the actor restarts.
        @ray.method(max_task_retries=5)
        def decorated(self, mark):
            return self.die_once(mark)

        def die_once(self, mark):
            if not mark.exists():
                mark.touch()
                os._exit(1)
            return "survived"

    with _folder() as folder:
        mortal = Mortal.remote()
        assert ray.get(mortal.decorated.remote(folder / "one")) == "survived"
        by_option = mortal.die_once.options(max_task_retries=-1).remote(folder / "two")
        assert ray.get(by_option) == "survived"


@case("max_task_retries runs out: the call raises an error of the actor")
def retries_run_out(ray):
    mortal = _mortal(ray, max_restarts=-1, max_task_retries=1).remote()
    with raises(ray.exceptions.RayActorError):
        ray.get(mortal.die.remote())
    assert _value_again(ray, mortal.increment) == 1


@case(
    "Calls that wait when the actor dies run after its restart, where they may be retried",
    better="They run in the order of their submission, with the interrupted one in its place.",
)
def waiting_calls_run(ray):
    with _folder() as folder:
        seen = _run_through_a_death(ray, folder)
        assert sorted(set(seen)) == list(range(20))


@waiting_calls_run.ours
def waiting_calls_keep_their_order(ray):
    for _ in range(3):
        with _folder() as folder:
            seen = _run_through_a_death(ray, folder)
        # What ran and was not yet committed runs again, in its place as well.
        assert seen[:5] == list(range(5))
        assert seen[5] <= 5
        assert seen[5:] == list(range(seen[5], 20))


def _run_through_a_death(ray, folder):
    @ray.remote(max_restarts=1, max_task_retries=-1)
    class Log:
        def add(self, x):
            if x == 5 and not (folder / "died").exists():
                (folder / "died").touch()
                os._exit(1)
            with (folder / "log").open("a") as log:
                log.write(f"{x}\n")

    log = Log.remote()
    ray.get([log.add.remote(x) for x in range(20)])
    return [int(line) for line in (folder / "log").read_text().splitlines()]


@case("kill(no_restart=False) ends the process and lets the actor restart")
def kill_with_restart(ray):
    mortal = _mortal(ray, max_restarts=1).remote(3)
    pid = ray.get(mortal.pid.remote())
    ray.kill(mortal, no_restart=False)
    wait_until(lambda: _value_again(ray, mortal.pid) != pid, "another process")
    assert ray.get(mortal.increment.remote()) == 4


@case("kill() ends an actor for good, also one with restarts left")
def kill_without_restart(ray):
    mortal = _mortal(ray, max_restarts=-1).remote()
    ray.get(mortal.increment.remote())
    ray.kill(mortal)

    def dead():
        try:
            ray.get(mortal.increment.remote())
        except ray.exceptions.ActorDiedError:
            return True
        except ray.exceptions.RayActorError:
            return False
        return False

    wait_until(dead, "ActorDiedError")


@case("exit_actor() is not followed by a restart")
def exit_is_not_restarted(ray):
    mortal = _mortal(ray, max_restarts=-1).remote()
    ray.get(mortal.increment.remote())
    with raises(ray.exceptions.RayActorError):
        ray.get(mortal.leave.remote())
    time.sleep(0.5)
    with raises(ray.exceptions.ActorDiedError):
        ray.get(mortal.increment.remote())


@case("A named actor keeps its name through a restart")
def keeps_its_name(ray):
    mortal = _mortal(ray, max_restarts=1).options(name="mortal-with-a-name").remote()
    with raises(ray.exceptions.RayActorError):
        ray.get(mortal.die.remote())
    assert _value_again(ray, mortal.increment) == 1
    assert ray.get_actor("mortal-with-a-name") == mortal


@case("A restarted actor holds its resources again")
def keeps_its_resources(ray):
    @ray.remote(max_restarts=1, num_gpus=2)
    class Mortal:
        def gpus(self):
            return len(ray.get_gpu_ids())

        def die(self):
            os._exit(1)

    mortal = Mortal.remote()
    assert ray.get(mortal.gpus.remote()) == 2
    with raises(ray.exceptions.RayActorError):
        ray.get(mortal.die.remote())
    assert _value_again(ray, mortal.gpus) == 2


@case("Handles that others hold work again after the restart")
def other_handles_work(ray):
    mortal = _mortal(ray, max_restarts=1).remote()

    @ray.remote
    class Holder:
        def __init__(self, handle):
            self.handle = handle

        def use(self):
            return ray.get(self.handle.increment.remote())

    holder = Holder.remote(mortal)
    assert ray.get(holder.use.remote()) == 1
    with raises(ray.exceptions.RayActorError):
        ray.get(mortal.die.remote())
    _value_again(ray, mortal.increment)
    assert ray.get(holder.use.remote()) == 2


@case("Results from before the restart can still be had")
def results_stay(ray):
    mortal = _mortal(ray, max_restarts=1).remote()
    ref = mortal.increment.remote()
    ray.wait([ref])
    with raises(ray.exceptions.RayActorError):
        ray.get(mortal.die.remote())
    assert ray.get(ref) == 1


@case("retry_exceptions=True runs a method again that raised, up to max_task_retries times")
def retry_exceptions(ray):
    @ray.remote
    class Flaky:
        def __init__(self):
            self.tries = 0

        @ray.method(max_task_retries=3, retry_exceptions=True)
        def work(self):
            self.tries += 1
            if self.tries < 3:
                raise ValueError(self.tries)
            return self.tries

    assert ray.get(Flaky.remote().work.remote()) == 3


@case("retry_exceptions gives up after max_task_retries and raises the last error")
def retry_exceptions_run_out(ray):
    @ray.remote
    class Flaky:
        def __init__(self):
            self.tries = 0

        @ray.method(max_task_retries=2, retry_exceptions=True)
        def work(self):
            self.tries += 1
            raise ValueError(f"try {self.tries}")

        def count(self):
            return self.tries

    flaky = Flaky.remote()
    with raises(ValueError, match="try 3"):
        ray.get(flaky.work.remote())
    assert ray.get(flaky.count.remote()) == 3


@case("retry_exceptions=[…] retries only those classes")
def retry_some_exceptions(ray):
    @ray.remote(max_task_retries=-1)
    class Flaky:
        def __init__(self):
            self.tries = 0

        @ray.method(retry_exceptions=[KeyError])
        def work(self):
            self.tries += 1
            raise (KeyError if self.tries < 2 else ValueError)(self.tries)

        def count(self):
            return self.tries

    flaky = Flaky.remote()
    with raises(ValueError):
        ray.get(flaky.work.remote())
    assert ray.get(flaky.count.remote()) == 2


@case("Without retry_exceptions an error of user code is not retried")
def errors_are_not_retried(ray):
    @ray.remote(max_task_retries=-1, max_restarts=-1)
    class Failing:
        def __init__(self):
            self.tries = 0

        def work(self):
            self.tries += 1
            raise ValueError

        def count(self):
            return self.tries

    failing = Failing.remote()
    with raises(ValueError):
        ray.get(failing.work.remote())
    assert ray.get(failing.count.remote()) == 1


@case("retry_exceptions works for async methods")
def retry_async(ray):
    @ray.remote
    class Flaky:
        def __init__(self):
            self.tries = 0

        @ray.method(max_task_retries=3, retry_exceptions=[OSError])
        async def work(self):
            self.tries += 1
            if self.tries < 2:
                raise OSError
            return self.tries

    assert ray.get(Flaky.remote().work.remote()) == 2


@case("A task whose process dies runs again, by default")
def task_runs_again(ray):
    with _folder() as folder:

        @ray.remote
        def work():
            if not (folder / "died").exists():
                (folder / "died").touch()
                os._exit(1)
            return "done"

        assert ray.get(work.remote()) == "done"


@case("A task runs at most max_retries + 1 times")
def task_retries_run_out(ray):
    with _folder() as folder:

        @ray.remote(max_retries=1)
        def work():
            (folder / str(time.time_ns())).touch()
            os._exit(1)

        with raises(ray.exceptions.WorkerCrashedError):
            ray.get(work.remote())
        assert len(list(folder.iterdir())) == 2


@case("An error raised by a task is not retried, by default")
def task_error_is_not_retried(ray):
    with _folder() as folder:

        @ray.remote
        def work():
            (folder / str(time.time_ns())).touch()
            raise ValueError

        with raises(ValueError):
            ray.get(work.remote())
        assert len(list(folder.iterdir())) == 1


@case("retry_exceptions of a task retries errors, all or those listed")
def task_retry_exceptions(ray):
    with _folder() as folder:

        def work(name):
            (folder / f"{name}{time.time_ns()}").touch()
            if len(list(folder.glob(f"{name}*"))) < 3:
                raise KeyError(name)
            return "done"

        all_errors = ray.remote(retry_exceptions=True)(work)
        some = ray.remote(retry_exceptions=[KeyError], max_retries=5)(work)
        others = ray.remote(retry_exceptions=[OSError], max_retries=5)(work)
        assert ray.get(all_errors.remote("a")) == "done"
        assert ray.get(some.remote("b")) == "done"
        with raises(KeyError):
            ray.get(others.remote("c"))


@case("A restarted actor's constructor that raises ends it: ActorDiedError")
def constructor_fails_on_restart(ray):
    with _folder() as folder:

        @ray.remote(max_restarts=1)
        class Mortal:
            def __init__(self):
                if (folder / "made").exists():
                    raise RuntimeError("not a second time")
                (folder / "made").touch()

            def die(self):
                os._exit(1)

            def one(self):
                return 1

        mortal = Mortal.remote()
        assert ray.get(mortal.one.remote()) == 1
        with raises(ray.exceptions.RayActorError):
            ray.get(mortal.die.remote())

        def dead():
            try:
                ray.get(mortal.one.remote())
            except ray.exceptions.ActorDiedError as error:
                return "not a second time" in str(error)
            except ray.exceptions.RayActorError:
                return False
            return False

        wait_until(dead, "the constructor's error")


@case(
    "The caller of an interrupted call is told at once, not after the restart",
    worse="Whether a call may run again travels with the call, in the mailbox: it is read when the "
    "next process has taken it in, after its constructor. So the order of what is finished is "
    "never in doubt; kill() ends the wait.",
)
def interrupted_call_does_not_wait(ray):
    with _folder() as folder:
        slow = _slow_to_restart(ray, folder).remote()
        ray.get(slow.one.remote())
        begun = time.monotonic()
        with raises(ray.exceptions.RayActorError):
            ray.get(slow.die.remote())
        assert time.monotonic() - begun < 5
        ray.kill(slow)


@case("kill() during a restart ends the actor, and the calls that wait")
def kill_while_restarting(ray):
    with _folder() as folder:
        slow = _slow_to_restart(ray, folder).remote()
        ray.get(slow.one.remote())
        slow.die.remote()
        wait_until((folder / "again").exists, "the restart")
        ref = slow.one.options(max_task_retries=-1).remote()
        ray.kill(slow)
        with raises(ray.exceptions.ActorDiedError):
            ray.get(ref)


def _slow_to_restart(ray, folder):
    @ray.remote(max_restarts=-1)
    class Slow:
        def __init__(self):
            if (folder / "made").exists():
                (folder / "again").touch()
                time.sleep(8)
            (folder / "made").touch()

        def die(self):
            os._exit(1)

        def one(self):
            return 1

    return Slow
