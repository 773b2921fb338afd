"""get_runtime_context(): ids, names and resources, in drivers, tasks and actors."""

from __future__ import annotations

import re

from conformance.case import case
from conformance.checks import raises


def _asker(ray, **options):
    class Asker:
        def ask(self, name):
            return getattr(ray.get_runtime_context(), name)()

        def read(self, name):
            return getattr(ray.get_runtime_context(), name)

        async def ask_async(self, name):
            return getattr(ray.get_runtime_context(), name)()

    return ray.remote(**options)(Asker) if options else ray.remote(Asker)


def _is_hex(text):
    return isinstance(text, str) and re.fullmatch(r"[0-9a-f]{8,}", text) is not None


@case("get_job_id() is the same in the driver, its tasks and its actors")
def job_id(ray):
    @ray.remote
    def ask():
        return ray.get_runtime_context().get_job_id()

    mine = ray.get_runtime_context().get_job_id()
    assert _is_hex(mine)
    assert ray.get(ask.remote()) == mine
    assert ray.get(_asker(ray).remote().ask.remote("get_job_id")) == mine


@case("get_node_id() is the id of a node in nodes()")
def node_id(ray):
    there = ray.get(_asker(ray).remote().ask.remote("get_node_id"))
    assert _is_hex(there)
    assert there in [node["NodeID"] for node in ray.nodes()]


@case("get_worker_id() differs from process to process")
def worker_id(ray):
    Asker = _asker(ray)
    actors = [Asker.remote(), Asker.remote()]
    ids = ray.get([a.ask.remote("get_worker_id") for a in actors])
    ids.append(ray.get_runtime_context().get_worker_id())
    assert all(_is_hex(one) for one in ids)
    assert len(set(ids)) == 3


@case("get_actor_id() is the actor's id in an actor, and None in a driver and a task")
def actor_id(ray):
    @ray.remote
    def ask():
        return ray.get_runtime_context().get_actor_id()

    Asker = _asker(ray)
    one, other = Asker.remote(), Asker.remote()
    ids = ray.get([a.ask.remote("get_actor_id") for a in (one, other, one)])
    assert all(_is_hex(i) for i in ids)
    assert ids[0] == ids[2] != ids[1]
    assert ray.get_runtime_context().get_actor_id() is None
    assert ray.get(ask.remote()) is None


@case("get_task_id() differs from call to call, and is None in a driver")
def task_id(ray):
    @ray.remote
    def ask():
        return ray.get_runtime_context().get_task_id()

    ids = ray.get([ask.remote(), ask.remote()])
    ids.append(ray.get(_asker(ray).remote().ask.remote("get_task_id")))
    assert all(_is_hex(i) for i in ids)
    assert len(set(ids)) == 3
    assert ray.get_runtime_context().get_task_id() is None


@case("get_task_id() is known in an async method as well, each call its own")
def task_id_async(ray):
    actor = _asker(ray).remote()
    ids = ray.get([actor.ask_async.remote("get_task_id") for _ in range(3)])
    assert all(_is_hex(i) for i in ids)
    assert len(set(ids)) == 3


@case("get_task_name() is the function's or method's name, or what .options(name=…) says")
def task_name(ray):
    @ray.remote
    def ask():
        return ray.get_runtime_context().get_task_name()

    assert ray.get(ask.remote()).endswith("ask")
    assert ray.get(ask.options(name="mine").remote()) == "mine"
    actor = _asker(ray).remote()
    assert ray.get(actor.ask.remote("get_task_name")).endswith("Asker.ask")
    named = actor.ask.options(name="named call").remote("get_task_name")
    assert ray.get(named) == "named call"


@case("get_task_function_name() is the function's name also where the task was named")
def task_function_name(ray):
    @ray.remote
    def ask():
        return ray.get_runtime_context().get_task_function_name()

    assert ray.get(ask.options(name="mine").remote()).endswith("ask")


@case("get_actor_name() is the name, or an empty text or None without one")
def actor_name(ray):
    Asker = _asker(ray)
    named = Asker.options(name="asked-for-its-name").remote()
    assert ray.get(named.ask.remote("get_actor_name")) == "asked-for-its-name"
    assert not ray.get(Asker.remote().ask.remote("get_actor_name"))
    assert ray.get_runtime_context().get_actor_name() is None


@case("namespace is the job's, in the driver and in its tasks")
def namespace(ray):
    @ray.remote
    def ask():
        return ray.get_runtime_context().namespace

    mine = ray.get_runtime_context().namespace
    assert isinstance(mine, str)
    assert mine
    assert ray.get(ask.remote()) == mine


@case("current_actor outside of an actor raises RuntimeError")
def current_actor_outside(ray):
    with raises(RuntimeError):
        ray.get_runtime_context().current_actor  # noqa: B018 - reading it is what is tested


@case("was_current_actor_reconstructed is false in an actor that never died")
def not_reconstructed(ray):
    assert ray.get(_asker(ray).remote().read.remote("was_current_actor_reconstructed")) is False


@case("get_assigned_resources() has the resources of a task")
def assigned_resources_of_a_task(ray):
    @ray.remote(num_cpus=2, resources={"disk": 1})
    def ask():
        return ray.get_runtime_context().get_assigned_resources()

    got = ray.get(ask.remote())
    assert got["CPU"] == 2
    assert got["disk"] == 1


@case("get_assigned_resources() has the resources of an actor")
def assigned_resources_of_an_actor(ray):
    actor = _asker(ray, num_gpus=1, resources={"disk": 0.5}).remote()
    got = ray.get(actor.ask.remote("get_assigned_resources"))
    assert got["GPU"] == 1
    assert got["disk"] == 0.5


@case("get_accelerator_ids() lists the GPUs assigned, as texts, under 'GPU'")
def accelerator_ids(ray):
    with_gpu = _asker(ray, num_gpus=2).remote()
    ids = ray.get(with_gpu.ask.remote("get_accelerator_ids"))["GPU"]
    assert len(ids) == 2
    assert all(isinstance(i, str) for i in ids)
    assert ray.get(_asker(ray).remote().ask.remote("get_accelerator_ids"))["GPU"] == []


@case("get_placement_group_id() is None outside of placement groups")
def no_placement_group(ray):
    assert ray.get(_asker(ray).remote().ask.remote("get_placement_group_id")) is None


@case("get() shows the known parts as a dictionary")
def as_a_dictionary(ray):
    context = ray.get_runtime_context()
    got = context.get()
    assert {"job_id", "node_id", "namespace"} <= set(got)


@case("get_runtime_env_string() is the environment as text")
def runtime_env_string(ray):
    assert isinstance(ray.get_runtime_context().get_runtime_env_string(), str)
