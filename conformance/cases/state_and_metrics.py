"""ray.util.state, ray.util.metrics, nodes() and resources, as tools read them."""

from __future__ import annotations

import os
import time

from conformance.case import case
from conformance.checks import raises, submodule, wait_until


def _actor(ray, **options):
    class Shown:
        def pid(self):
            return os.getpid()

        def work(self, seconds):
            time.sleep(seconds)

        def mine(self):
            return ray.get_runtime_context().get_actor_id()

    return ray.remote(**options)(Shown) if options else ray.remote(Shown)


def _state(ray):
    return submodule(ray, "util.state")


def _entry(ray, actor_id, condition, awaited):
    """The state API's entry of an actor, once it meets the condition."""

    def look():
        entry = _state(ray).get_actor(actor_id)
        return entry if entry is not None and condition(entry) else None

    return wait_until(look, awaited)


@case("list_actors() has a living actor as ALIVE, with class name and process id")
def list_actors(ray):
    actor = _actor(ray).remote()
    actor_id, pid = ray.get([actor.mine.remote(), actor.pid.remote()])
    entries = [e for e in _state(ray).list_actors(limit=10000) if e.actor_id == actor_id]
    assert len(entries) == 1
    assert entries[0].state == "ALIVE"
    assert entries[0].class_name.endswith("Shown")
    assert entries[0].pid == pid


@case("Entries of the state API can be read by key as well as by attribute")
def entries_by_key(ray):
    actor = _actor(ray).remote()
    actor_id = ray.get(actor.mine.remote())
    entry = _state(ray).get_actor(actor_id)
    assert entry["state"] == entry.state == "ALIVE"
    assert entry["actor_id"] == actor_id


@case("list_actors(filters=[…]) keeps the actors that meet all of them")
def filters(ray):
    actor = _actor(ray).options(name="shown-by-filter").remote()
    actor_id = ray.get(actor.mine.remote())
    found = _state(ray).list_actors(filters=[("name", "=", "shown-by-filter")])
    assert [e.actor_id for e in found if e.state == "ALIVE"] == [actor_id]
    both = [("name", "=", "shown-by-filter"), ("state", "=", "PENDING_CREATION")]
    assert _state(ray).list_actors(filters=both) == []


@case("A filter with != keeps the others")
def filter_not(ray):
    actor = _actor(ray).remote()
    actor_id = ray.get(actor.mine.remote())
    found = _state(ray).list_actors(filters=[("state", "!=", "DEAD")], limit=10000)
    assert actor_id in [e.actor_id for e in found]
    assert all(e.state != "DEAD" for e in found)


@case("A filter with an unknown operator or column is refused")
def bad_filters(ray):
    with raises(Exception):
        _state(ray).list_actors(filters=[("state", "~", "ALIVE")])
    with raises(Exception):
        _state(ray).list_actors(filters=[("no_such_column", "=", "x")])


@case("list_actors(limit=n) gives at most n")
def limit(ray):
    actors = [_actor(ray).remote() for _ in range(2)]
    ray.get([a.pid.remote() for a in actors])
    assert len(_state(ray).list_actors(limit=1, raise_on_missing_output=False)) == 1


@case("list_actors(detail=True) has more: the restarts, the death cause, the resources")
def detail(ray):
    actor = _actor(ray, num_gpus=1).remote()
    actor_id = ray.get(actor.mine.remote())
    (entry,) = [
        e for e in _state(ray).list_actors(detail=True, limit=10000) if e.actor_id == actor_id
    ]
    assert entry.required_resources["GPU"] == 1
    assert int(entry.num_restarts) == 0


@case("get_actor() of an id that nobody has is None")
def get_unknown_actor(ray):
    actor = _actor(ray).remote()
    actor_id = ray.get(actor.mine.remote())
    unknown = actor_id[:-8][::-1] + actor_id[-8:]
    assert _state(ray).get_actor(unknown) is None


@case("A killed actor is DEAD, and its death cause says that it was killed")
def dead_actor(ray):
    actor = _actor(ray).remote()
    actor_id = ray.get(actor.mine.remote())
    ray.kill(actor)
    entry = _entry(ray, actor_id, lambda e: e.state == "DEAD", "DEAD")
    assert "kill" in str(entry.death_cause)


@case("An actor that waits for resources is PENDING_CREATION")
def pending_actor(ray):
    Big = _actor(ray, resources={"disk": 4})
    first = Big.remote()
    ray.get(first.pid.remote())
    second = Big.options(name="pending-for-the-disk").remote()
    found = wait_until(
        lambda: _state(ray).list_actors(
            filters=[("name", "=", "pending-for-the-disk"), ("state", "=", "PENDING_CREATION")]
        ),
        "PENDING_CREATION",
    )
    assert len(found) == 1
    ray.kill(first)
    ray.get(second.pid.remote())


@case("An actor whose arguments are not there yet is DEPENDENCIES_UNREADY")
def dependencies_unready(ray):
    @ray.remote
    class Needs:
        def __init__(self, value):
            pass

        def one(self):
            return 1

    slow = _actor(ray).remote().work.remote(2.0)
    needs = Needs.options(name="needs-a-value").remote(slow)
    wait_until(
        lambda: _state(ray).list_actors(
            filters=[("name", "=", "needs-a-value"), ("state", "=", "DEPENDENCIES_UNREADY")]
        ),
        "DEPENDENCIES_UNREADY",
    )
    assert ray.get(needs.one.remote()) == 1


@case("An actor that begins again is RESTARTING, then ALIVE with one restart more")
def restarting(ray):
    @ray.remote(max_restarts=1)
    class Mortal:
        def mine(self):
            return ray.get_runtime_context().get_actor_id()

    mortal = Mortal.remote()
    actor_id = ray.get(mortal.mine.remote())
    ray.kill(mortal, no_restart=False)
    entry = _entry(
        ray, actor_id, lambda e: e.state == "ALIVE" and int(e.num_restarts) == 1, "the restart"
    )
    assert entry.state == "ALIVE"


@case("list_tasks() has tasks by name, FINISHED or FAILED when they are over")
def list_tasks(ray):
    @ray.remote
    def named_work(fail):
        if fail:
            raise ValueError

    good = named_work.options(name="good-work").remote(False)
    bad = named_work.options(name="bad-work", max_retries=0).remote(True)
    ray.wait([good, bad], num_returns=2)

    def states():
        return {
            e.name: e.state
            for e in _state(ray).list_tasks(limit=10000)
            if e.name in ("good-work", "bad-work")
        }

    wait_until(lambda: states() == {"good-work": "FINISHED", "bad-work": "FAILED"}, "the states")


@case("list_tasks() shows a running method as RUNNING, with its actor")
def running_task(ray):
    actor = _actor(ray).remote()
    actor_id = ray.get(actor.mine.remote())
    ref = actor.work.remote(4)

    def running():
        return [
            e
            for e in _state(ray).list_tasks(filters=[("state", "=", "RUNNING")], limit=10000)
            if e.actor_id == actor_id and "work" in e.name
        ]

    wait_until(running, "the running call")
    ray.kill(actor)
    ray.wait([ref])


@case("list_nodes() has the node, ALIVE, with the id that nodes() gives it")
def list_nodes(ray):
    ids = {node["NodeID"] for node in ray.nodes()}
    found = _state(ray).list_nodes()
    assert {e.node_id for e in found} == ids
    assert all(e.state == "ALIVE" for e in found)


@case("list_workers(), list_jobs() and list_placement_groups() are there")
def other_lists(ray):
    state = _state(ray)
    for name in ("list_workers", "list_jobs", "list_placement_groups"):
        assert callable(getattr(state, name)), name
    assert isinstance(state.list_placement_groups(), list)


@case(
    "list_objects() lists the objects that are referred to",
    worse="Objects are known to the processes that hold them, their node and Redis; nothing keeps "
    "a list of all. A node's large objects are files in its shared-memory directory.",
)
def list_objects(ray):
    ref = ray.put("listed")
    listed = _state(ray).list_objects(limit=10000)
    assert ref.hex() in [entry.object_id for entry in listed]


@case("summarize_actors() counts actors by class and state")
def summarize_actors(ray):
    actor = _actor(ray).remote()
    ray.get(actor.pid.remote())
    summary = _state(ray).summarize_actors()
    by_class = summary["cluster"]["summary"]
    (name,) = [n for n in by_class if n.endswith("Shown")]
    assert by_class[name]["state_counts"]["ALIVE"] >= 1


@case("summarize_tasks() counts tasks by function and state")
def summarize_tasks(ray):
    @ray.remote
    def counted_work():
        pass

    ray.get([counted_work.remote() for _ in range(3)])

    def counted():
        by_name = _state(ray).summarize_tasks()["cluster"]["summary"]
        found = [v for n, v in by_name.items() if n.endswith("counted_work")]
        return found and found[0]["state_counts"].get("FINISHED", 0) >= 3

    wait_until(counted, "three finished tasks")


@case("nodes() describes each node: id, alive, resources, labels")
def nodes(ray):
    (node,) = ray.nodes()
    assert node["Alive"] is True
    assert isinstance(node["NodeID"], str)
    assert node["Resources"]["CPU"] == 4
    assert isinstance(node["Labels"], dict)


@case("cluster_resources() are all resources, available_resources() those not in use")
def resources(ray):
    total = ray.cluster_resources()
    assert (total["CPU"], total["GPU"], total["disk"]) == (4, 4, 4)
    actor = _actor(ray, resources={"disk": 1.5}).remote()
    ray.get(actor.pid.remote())
    wait_until(lambda: ray.available_resources()["disk"] == 2.5, "what is left")
    assert ray.cluster_resources()["disk"] == 4


@case("timeline() gives events of tasks in Chrome's trace format")
def timeline(ray):
    @ray.remote
    def traced_work():
        time.sleep(0.05)

    ray.get(traced_work.remote())

    def traced():
        events = ray.timeline() or []
        return [e for e in events if "traced_work" in e.get("name", "") + e.get("cat", "")]

    (event, *_) = wait_until(traced, "its event")
    assert {"ph", "ts", "pid"} <= set(event)


@case("metrics.Counter counts up, by tags")
def counter(ray):
    metrics = submodule(ray, "util.metrics")

    @ray.remote
    class Actor:
        def __init__(self):
            self.counter = metrics.Counter(
                "cf_calls", description="calls of the actor", tag_keys=("kind",)
            )

        def work(self):
            self.counter.inc(tags={"kind": "a"})
            self.counter.inc(2.0, tags={"kind": "b"})
            return self.counter.info["name"]

    assert ray.get(Actor.remote().work.remote()) == "cf_calls"


@case("Counter.inc() of zero or less raises ValueError")
def counter_goes_up(ray):
    counter = submodule(ray, "util.metrics").Counter("cf_up")
    for value in (0, -1):
        with raises(ValueError):
            counter.inc(value)


@case("metrics.Gauge is set to any value")
def gauge(ray):
    gauge = submodule(ray, "util.metrics").Gauge("cf_gauge", tag_keys=("kind",))
    gauge.set(3.5, tags={"kind": "a"})
    gauge.set(-1, tags={"kind": "a"})
    with raises(TypeError):
        gauge.set("much")


@case("metrics.Histogram observes values; boundaries must be positive numbers")
def histogram(ray):
    metrics = submodule(ray, "util.metrics")
    histogram = metrics.Histogram("cf_seconds", boundaries=[0.1, 1.0])
    histogram.observe(0.5)
    for boundaries in ([], [0], [-1.0]):
        with raises(ValueError):
            metrics.Histogram("cf_bad", boundaries=boundaries)


@case("A tag that is not among tag_keys raises ValueError; one that is missing too")
def tags(ray):
    metrics = submodule(ray, "util.metrics")
    counter = metrics.Counter("cf_tagged", tag_keys=("kind",))
    with raises(ValueError):
        counter.inc(tags={"other": "x"})
    with raises(ValueError):
        counter.inc()
    with raises(TypeError):
        metrics.Counter("cf_bad_tags", tag_keys="kind")


@case("set_default_tags() gives the tags that a call leaves out")
def default_tags(ray):
    metrics = submodule(ray, "util.metrics")
    counter = metrics.Counter("cf_default", description="said", tag_keys=("kind", "where"))
    counter.set_default_tags({"kind": "a"})
    counter.inc(tags={"where": "here"})
    assert counter.info["default_tags"] == {"kind": "a"}
    assert counter.info["description"] == "said"
    assert counter.info["tag_keys"] == ("kind", "where")


@case("The name of a metric must not be empty")
def metric_name(ray):
    with raises(ValueError):
        submodule(ray, "util.metrics").Counter("")
