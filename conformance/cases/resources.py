"""CPUs, GPUs and resources of one's own."""

from __future__ import annotations

import os

from conformance.case import case
from conformance.checks import raises, wait_until


def _gpu_actor(ray, **options):
    class Actor:
        def __init__(self):
            self.at_first = ray.get_gpu_ids()

        def gpus(self):
            return ray.get_gpu_ids()

        def first(self):
            return self.at_first

        def visible(self):
            return os.environ.get("CUDA_VISIBLE_DEVICES")

        def one(self):
            return 1

    return ray.remote(**options)(Actor) if options else ray.remote(Actor)


@case("get_gpu_ids() has as many ids as num_gpus asked for, already in the constructor")
def gpu_ids(ray):
    actor = _gpu_actor(ray, num_gpus=2).remote()
    ids = ray.get(actor.gpus.remote())
    assert len(ids) == 2
    assert len(set(ids)) == 2
    assert ray.get(actor.first.remote()) == ids


@case("get_gpu_ids() is an empty list in an actor without GPUs")
def no_gpus(ray):
    assert ray.get(_gpu_actor(ray).remote().gpus.remote()) == []


@case("get_gpu_ids() are integers where nothing else was declared")
def gpu_ids_are_integers(ray):
    (one,) = ray.get(_gpu_actor(ray, num_gpus=1).remote().gpus.remote())
    assert isinstance(one, int)
    assert 0 <= one < 4


@case("Two actors never get the same whole GPU")
def gpus_are_exclusive(ray):
    Actor = _gpu_actor(ray, num_gpus=1)
    actors = [Actor.remote() for _ in range(4)]
    ids = [i for got in ray.get([a.gpus.remote() for a in actors]) for i in got]
    assert sorted(ids) == [0, 1, 2, 3]


@case("CUDA_VISIBLE_DEVICES in the actor's process has its GPUs")
def cuda_visible_devices(ray):
    actor = _gpu_actor(ray, num_gpus=2).remote()
    ids, visible = ray.get([actor.gpus.remote(), actor.visible.remote()])
    assert visible == ",".join(str(i) for i in ids)


@case("CUDA_VISIBLE_DEVICES is set before the constructor runs")
def cuda_visible_devices_at_first(ray):
    @ray.remote(num_gpus=1)
    class Actor:
        def __init__(self):
            self.seen = os.environ.get("CUDA_VISIBLE_DEVICES")

        def read(self):
            return self.seen, ray.get_gpu_ids()

    seen, ids = ray.get(Actor.remote().read.remote())
    assert seen == str(ids[0])


@case(
    "An actor without GPUs reserves none",
    better="It also sees none: CUDA_VISIBLE_DEVICES is empty in its process, so that it can't "
    "take another's by mistake.",
)
def without_gpus(ray):
    actor = _gpu_actor(ray).remote()
    ray.get(actor.one.remote())
    wait_until(lambda: ray.available_resources().get("GPU") == 4, "all GPUs to be free")


@without_gpus.ours
def sees_no_gpus(ray):
    assert ray.get(_gpu_actor(ray).remote().visible.remote()) == ""


@case("A fraction of a GPU shares it: two halves are on one GPU")
def fractions(ray):
    Half = _gpu_actor(ray, num_gpus=0.5)
    Whole = _gpu_actor(ray, num_gpus=3)
    whole = Whole.remote()
    taken = ray.get(whole.gpus.remote())
    halves = [Half.remote(), Half.remote()]
    one, other = ray.get([h.gpus.remote() for h in halves])
    assert one == other
    assert one[0] not in taken


@case("A task's GPUs are given back when it is over")
def gpus_of_tasks(ray):
    @ray.remote(num_gpus=4)
    def work():
        return ray.get_gpu_ids()

    for _ in range(2):
        assert sorted(ray.get(work.remote(), timeout=14)) == [0, 1, 2, 3]


@case("An actor that asks for busy GPUs waits until they are free")
def waits_for_gpus(ray):
    first = _gpu_actor(ray, num_gpus=4).remote()
    ray.get(first.one.remote())
    second = _gpu_actor(ray, num_gpus=1).remote()
    ref = second.one.remote()
    assert ray.wait([ref], timeout=0.7)[0] == []
    ray.kill(first)
    assert ray.get(ref, timeout=12) == 1


@case(
    "An actor that no node can ever run is not run",
    better="It raises at .remote(), and says how many were asked for and how many there are; in "
    "Ray it waits for ever.",
)
def more_than_there_are(ray):
    actor = _gpu_actor(ray, num_gpus=9).remote()
    assert ray.wait([actor.one.remote()], timeout=1)[0] == []


@more_than_there_are.ours
def more_than_there_are_raises(ray):
    with raises(ValueError, match="(?s)not enough GPUs.*9") as raised:
        _gpu_actor(ray, num_gpus=9).remote()
    assert "4" in str(raised.value)


@case("Resources of one's own bound what runs at the same time")
def custom_resources(ray):
    Big = _gpu_actor(ray, resources={"disk": 3})
    first = Big.remote()
    ray.get(first.one.remote())
    second = Big.remote()
    ref = second.one.remote()
    assert ray.wait([ref], timeout=0.7)[0] == []
    ray.kill(first)
    assert ray.get(ref, timeout=12) == 1


@case("Fractions of resources of one's own add up")
def custom_fractions(ray):
    Part = _gpu_actor(ray, resources={"disk": 0.5})
    actors = [Part.remote() for _ in range(3)]
    ray.get([a.one.remote() for a in actors])
    wait_until(lambda: ray.available_resources()["disk"] == 2.5, "what is left")


@case("num_cpus of an actor is held as long as it lives")
def cpus_of_an_actor(ray):
    actor = _gpu_actor(ray, num_cpus=2).remote()
    ray.get(actor.one.remote())
    wait_until(lambda: ray.available_resources().get("CPU", 0) == 2, "what is left")
    del actor
    wait_until(lambda: ray.available_resources().get("CPU", 0) == 4, "what comes back")


@case("memory is a resource as well: an actor may ask for bytes of it")
def memory(ray):
    Actor = _gpu_actor(ray, memory=50 * 1024 * 1024)
    assert ray.get(Actor.remote().one.remote()) == 1
    assert ray.cluster_resources()["memory"] > 50 * 1024 * 1024


@case("The driver's get_gpu_ids() is a list")
def gpu_ids_of_the_driver(ray):
    assert isinstance(ray.get_gpu_ids(), list)


@case("Actors' resources are all back when the actors have gone")
def resources_come_back(ray):
    actors = [_gpu_actor(ray, num_gpus=1, resources={"disk": 1}).remote() for _ in range(3)]
    ray.get([a.one.remote() for a in actors])
    actors.clear()
    wait_until(
        lambda: (
            (ray.available_resources().get("GPU"), ray.available_resources().get("disk")) == (4, 4)
        ),
        "all resources",
    )
