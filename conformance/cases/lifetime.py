"""How long an actor lives."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from conformance.case import case
from conformance.checks import raises, wait_until


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _actor(ray):
    @ray.remote
    class Actor:
        def pid(self):
            return os.getpid()

        def work(self, seconds, value=None):
            time.sleep(seconds)
            return value

        def keep(self, *things):
            self.things = things

        def drop(self):
            self.things = None

    return Actor


@contextmanager
def _folder():
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _ended(pid):
    wait_until(lambda: not _alive(pid), "the end of the actor's process", 12)


@case("An actor ends when its last handle has gone")
def last_handle(ray):
    actor = _actor(ray).remote()
    pid = ray.get(actor.pid.remote())
    del actor
    _ended(pid)


def _starter(ray):
    @ray.remote
    class Starter:
        def start(self):
            return os.getpid(), subprocess.Popen(["sleep", "300"]).pid

        def interrupt(self):
            with subprocess.Popen(["sleep", "300"]) as child:
                child.send_signal(signal.SIGINT)
                try:
                    return child.wait(5)
                finally:
                    child.kill()

        def leave(self):
            ray.actor.exit_actor()

    return Starter


@case("A subprocess of an actor ends with the actor's last handle")
def child_of_last_handle(ray):
    actor = _starter(ray).remote()
    _, child = ray.get(actor.start.remote())
    del actor
    _ended(child)


@case("A subprocess of an actor ends with exit_actor()")
def child_of_exit_actor(ray):
    actor = _starter(ray).remote()
    _, child = ray.get(actor.start.remote())
    actor.leave.remote()
    _ended(child)


@case(
    "A subprocess of an actor whose process is killed ends",
    deviates="Ray's worker ends its children itself, which a killed one can't.",
)
def child_of_killed(ray):
    actor = _starter(ray).remote()
    pid, child = ray.get(actor.start.remote())
    os.kill(pid, signal.SIGKILL)
    try:
        _ended(child)
    finally:
        if _alive(child):
            os.kill(child, signal.SIGKILL)


@case(
    "SIGINT ends a subprocess of an actor",
    deviates="Ray's processes have SIGINT blocked, and what they start inherits that (ray#31805).",
)
def interrupted_child(ray):
    assert ray.get(_starter(ray).remote().interrupt.remote()) == -signal.SIGINT


@case("The root logger of an actor has no handler, so that basicConfig() works")
def root_logger(ray):
    @ray.remote
    class Actor:
        def ask(self):
            return len(logging.getLogger().handlers)

    assert ray.get(Actor.remote().ask.remote()) == 0


@case("Calls made before the last handle went are all done first")
def earlier_calls_are_done(ray):
    actor = _actor(ray).remote()
    refs = [actor.work.remote(0.1, x) for x in range(5)]
    pid = actor.pid.remote()
    del actor
    assert ray.get(refs) == list(range(5))
    _ended(ray.get(pid))


@case("An actor that nobody keeps still runs the call made on it in the same line")
def call_on_a_temporary(ray):
    assert ray.get(_actor(ray).remote().work.remote(0.3, "done")) == "done"


@case("A copy of the handle in another variable or container keeps the actor")
def copies(ray):
    actor = _actor(ray).remote()
    kept = {"actor": [actor]}
    pid = ray.get(actor.pid.remote())
    del actor
    time.sleep(0.7)
    assert ray.get(kept["actor"][0].pid.remote()) == pid
    kept.clear()
    _ended(pid)


@case("A handle that another actor holds keeps the actor, until that one drops it")
def held_by_an_actor(ray):
    Actor = _actor(ray)
    holder, actor = Actor.remote(), Actor.remote()
    pid = ray.get(actor.pid.remote())
    ray.get(holder.keep.remote(actor))
    del actor
    time.sleep(0.7)
    assert _alive(pid)
    ray.get(holder.drop.remote())
    _ended(pid)


@case("When an actor dies, those that only it held end too")
def held_by_one_that_dies(ray):
    Actor = _actor(ray)
    holder, actor = Actor.remote(), Actor.remote()
    pid = ray.get(actor.pid.remote())
    ray.get(holder.keep.remote(actor))
    del actor
    ray.kill(holder)
    _ended(pid)


@case("A handle inside a put object keeps the actor as long as the object's ref lives")
def held_by_an_object(ray):
    actor = _actor(ray).remote()
    pid = ray.get(actor.pid.remote())
    ref = ray.put([actor])
    del actor
    time.sleep(0.7)
    (again,) = ray.get(ref)
    assert ray.get(again.pid.remote()) == pid
    del again, ref
    _ended(pid)


@case("A handle inside a task's arguments keeps the actor until the task is over")
def held_by_a_task(ray):
    @ray.remote
    def use(actor):
        time.sleep(0.8)
        return ray.get(actor.pid.remote())

    actor = _actor(ray).remote()
    ref = use.remote(actor)
    del actor
    pid = ray.get(ref)
    _ended(pid)


@case("A handle in an argument that waits for another call keeps the actor meanwhile")
def held_by_a_waiting_call(ray):
    @ray.remote
    def use(actor, _after):
        return ray.get(actor.pid.remote())

    Actor = _actor(ray)
    actor, slow = Actor.remote(), Actor.remote()
    pid = ray.get(actor.pid.remote())
    ref = use.remote(actor, slow.work.remote(1.0))
    del actor
    assert ray.get(ref) == pid


@case("An actor whose handle a task returned lives on after the task")
def returned_handle(ray):
    Actor = _actor(ray)

    @ray.remote
    def make():
        return Actor.remote()

    actor = ray.get(make.remote())
    pid = ray.get(actor.pid.remote())
    time.sleep(0.7)
    assert ray.get(actor.pid.remote()) == pid


@case("An actor made by a task that did not return its handle ends after the task")
def forgotten_in_a_task(ray):
    Actor = _actor(ray)

    @ray.remote
    def make():
        actor = Actor.remote()
        return ray.get(actor.pid.remote())

    _ended(ray.get(make.remote()))


@case("Results outlive the actor that made them")
def results_outlive(ray):
    actor = _actor(ray).remote()
    ref = actor.work.remote(0, {"a": 1})
    pid = ray.get(actor.pid.remote())
    del actor
    _ended(pid)
    assert ray.get(ref) == {"a": 1}


@case("atexit handlers of the actor run when its last handle has gone")
def atexit_runs(ray):
    with _folder() as folder:
        mark = folder / "left"

        @ray.remote
        class Actor:
            def __init__(self):
                import atexit

                atexit.register(mark.touch)

            def one(self):
                return 1

        actor = Actor.remote()
        ray.get(actor.one.remote())
        del actor
        wait_until(mark.exists, "the atexit handler", 12)


@case("At the end of an actor its executors and threads are waited for, its files flushed")
def interpreter_end(ray):
    with _folder() as folder:

        @ray.remote
        class Actor:
            def __init__(self):
                import concurrent.futures
                import threading

                self.pool = concurrent.futures.ThreadPoolExecutor(1)
                self.pool.submit(self.late, "executor")
                threading.Thread(target=self.late, args=("thread",)).start()
                self.file = (folder / "file").open("w")
                self.file.write("written")

            @staticmethod
            def late(name):
                time.sleep(0.3)
                (folder / name).touch()

            def pid(self):
                return os.getpid()

            def leave(self):
                ray.actor.exit_actor()

        actor = Actor.remote()
        pid = ray.get(actor.pid.remote())
        actor.leave.remote()
        _ended(pid)
        assert {path.name for path in folder.iterdir()} == {"executor", "thread", "file"}
        assert (folder / "file").read_text() == "written"


@case("exit_actor() in a constructor ends the actor")
def exit_in_constructor(ray):
    @ray.remote
    class Leaves:
        def __init__(self):
            ray.actor.exit_actor()

        def ok(self):
            return "ok"

    with raises(ray.exceptions.RayActorError):
        ray.get(Leaves.remote().ok.remote())


@case("A method that catches what exit_actor() raises does not keep the actor")
def exit_is_caught(ray):
    @ray.remote
    class Catches:
        def leave(self):
            with suppress(SystemExit):
                ray.actor.exit_actor()

        def ok(self):
            return "ok"

    actor = Catches.remote()
    assert ray.get(actor.ok.remote()) == "ok"
    with raises(ray.exceptions.RayActorError):
        ray.get(actor.leave.remote())
    with raises(ray.exceptions.RayActorError):
        ray.get(actor.ok.remote())


@case("__ray_shutdown__ runs when the actor ends in order, before its process goes")
def shutdown_hook(ray):
    with _folder() as folder:

        @ray.remote
        class Actor:
            def __init__(self):
                self.state = "state of the actor"

            def one(self):
                return 1

            def __ray_shutdown__(self):
                (folder / "said").write_text(self.state)

        actor = Actor.remote()
        ray.get(actor.one.remote())
        del actor
        wait_until((folder / "said").exists, "__ray_shutdown__", 12)
        wait_until((folder / "said").read_text, "its text")
        assert (folder / "said").read_text() == "state of the actor"


@case("__ray_shutdown__ runs on exit_actor() as well")
def shutdown_hook_on_exit(ray):
    with _folder() as folder:

        @ray.remote
        class Actor:
            def leave(self):
                ray.actor.exit_actor()

            def __ray_shutdown__(self):
                (folder / "said").touch()

        with raises(ray.exceptions.RayActorError):
            ray.get(Actor.remote().leave.remote())
        wait_until((folder / "said").exists, "__ray_shutdown__", 12)


@case("kill() does not run __ray_shutdown__: it ends the actor at once")
def no_hook_on_kill(ray):
    with _folder() as folder:

        @ray.remote
        class Actor:
            def pid(self):
                return os.getpid()

            def __ray_shutdown__(self):
                (folder / "said").touch()

        actor = Actor.remote()
        pid = ray.get(actor.pid.remote())
        ray.kill(actor)
        _ended(pid)
        assert not (folder / "said").exists()


@case(
    "exit_actor() ends the actor; calls of others that wait raise ActorDiedError",
    better="Calls submitted before exit_actor() ran, by whoever waits behind it, are refused "
    "with the reason, and none of them ran.",
)
def calls_behind_exit(ray):
    with _folder() as folder:
        _calls_behind_exit(ray, folder)


@calls_behind_exit.ours
def none_behind_exit_ran(ray):
    with _folder() as folder:
        error = _calls_behind_exit(ray, folder)
        assert "exit_actor" in str(error)
        assert not (folder / "ran").exists()


def _calls_behind_exit(ray, folder):
    @ray.remote
    class Actor:
        def leave(self):
            time.sleep(0.5)
            ray.actor.exit_actor()

        def late(self):
            (folder / "ran").touch()

    actor = Actor.remote()
    leave, late = actor.leave.remote(), actor.late.remote()
    with raises(ray.exceptions.RayActorError):
        ray.get(leave)
    with raises(ray.exceptions.ActorDiedError) as raised:
        ray.get(late)
    return raised.value


@case("An actor that ended has given its resources back")
def resources_come_back(ray):
    @ray.remote(resources={"disk": 4})
    class Big:
        def one(self):
            return 1

    for _ in range(2):
        big = Big.remote()
        assert ray.get(big.one.remote(), timeout=15) == 1
        del big


@case(
    "Ending an actor does not end the detached actors that it created",
    better="It ends none that others hold, detached or not. In Ray the end of an actor's process, "
    "however it comes, ends the actors that it created.",
)
def children_outlive(ray):
    _child_outlives(ray, ray.kill, lifetime="detached", name="a-detached-child")


@children_outlive.ours
def held_children_outlive(ray):
    for end in (ray.kill, _crash, _leave, _let_go):
        _child_outlives(ray, end)


def _crash(parent):
    os.kill(parent.pid.remote().future().result(10), signal.SIGKILL)


def _leave(parent):
    parent.leave.remote()


def _let_go(_parent):
    """Its last handle goes, in the caller."""


def _child_outlives(ray, end, **options):
    Actor = _actor(ray)

    @ray.remote
    class Parent:
        def make(self):
            return Actor.options(**options).remote()

        def pid(self):
            return os.getpid()

        def leave(self):
            ray.actor.exit_actor()

    parent = Parent.remote()
    child = ray.get(parent.make.remote())
    pid, parents_pid = ray.get([child.pid.remote(), parent.pid.remote()])
    end(parent)
    del parent
    _ended(parents_pid)
    time.sleep(0.5)
    assert ray.get(child.pid.remote()) == pid
    ray.kill(child)


@case("An actor that a task created lives on after the task, while others hold it")
def child_of_a_task(ray):
    Actor = _actor(ray)

    @ray.remote
    def make():
        return Actor.remote()

    child = ray.get(make.remote())
    pid = ray.get(child.pid.remote())
    time.sleep(2.5)  # longer than a worker without work is kept
    assert ray.get(child.pid.remote()) == pid
