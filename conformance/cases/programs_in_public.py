"""What public programs use beside actors and tasks: names, facts of the cluster, former options."""

from __future__ import annotations

import importlib
import time

from conformance.case import case
from conformance.checks import raises, run_driver, submodule


@case("an attribute of the object with a method's name does not hide the method")
def attribute_of_a_methods_name(ray):
    @ray.remote
    class Account:
        def __init__(self):
            self.balance = 7

        def balance(self):
            return "called"

    assert ray.get(Account.remote().balance.remote(), timeout=12) == "called"


@case("ray.cloudpickle pickles functions, refs and handles")
def cloudpickle(ray):
    @ray.remote
    class Actor:
        def call(self):
            return 3

    pickle, actor = submodule(ray, "cloudpickle"), Actor.remote()
    function, again = pickle.loads(pickle.dumps((lambda: 2, actor)))
    assert function() == 2
    assert ray.get(again.call.remote(), timeout=12) == 3


@case("placement_group= and placement_group_bundle_index= place an actor and a task")
def former_placement_options(ray):
    groups = submodule(ray, "util.placement_group")

    @ray.remote(num_cpus=1)
    class Actor:
        def group(self):
            return ray.get_runtime_context().get_placement_group_id()

    @ray.remote(num_cpus=1)
    def group_here():
        return ray.get_runtime_context().get_placement_group_id()

    group = groups.placement_group([{"CPU": 1}, {"CPU": 1}])
    ray.get(group.ready(), timeout=12)
    try:
        actor = Actor.options(placement_group=group, placement_group_bundle_index=0).remote()
        assert ray.get(actor.group.remote(), timeout=12) == group.id.hex()
        task = group_here.options(placement_group=group, placement_group_bundle_index=1)
        assert ray.get(task.remote(), timeout=12) == group.id.hex()
    finally:
        groups.remove_placement_group(group)


@case("placement_group= beside scheduling_strategy= is a ValueError")
def placement_twice(ray):
    groups = submodule(ray, "util.placement_group")

    @ray.remote
    def task():
        return 1

    group = groups.placement_group([{"CPU": 1}])
    try:
        with raises(ValueError):
            task.options(placement_group=group, scheduling_strategy="SPREAD").remote()
    finally:
        groups.remove_placement_group(group)


@case("accelerator_type=None asks for nothing")
def no_accelerator(ray):
    @ray.remote(accelerator_type=None)
    def task():
        return 1

    assert ray.get(task.remote(), timeout=12) == 1


@case("nodes() have NodeManagerAddress; the cluster has memory, object_store_memory, node:<ip>")
def facts_of_nodes(ray):
    node = ray.nodes()[0]
    have = ray.cluster_resources()
    assert have["memory"] > 0
    assert have["object_store_memory"] > 0
    assert have[f"node:{node['NodeManagerAddress']}"] == 1.0
    assert node["Alive"]
    assert node["alive"]


@case("a task that asks for a part of node:<ip> runs on that node")
def task_at_an_address(ray):
    node = ray.nodes()[0]

    @ray.remote(num_cpus=0, resources={f"node:{node['NodeManagerAddress']}": 0.01})
    def there():
        return ray.get_runtime_context().get_node_id()

    assert ray.get(there.remote(), timeout=12) == node["NodeID"]


@case("ids have nil(), from_random(), hex(), from_hex(), binary(), is_nil()")
def ids(ray):
    for name in ("ActorID", "NodeID", "WorkerID", "PlacementGroupID"):
        kind = getattr(ray, name)
        made = kind.from_hex(kind.nil().hex())
        assert made == kind.nil()
        assert made.is_nil()
        assert len(made.binary()) * 2 == len(made.hex())
    assert not ray.UniqueID.from_random().is_nil()
    assert ray.ObjectID is ray.ObjectRef
    ref = ray.put(3)
    assert ray.ObjectRef.from_binary(ref.binary()) == ref
    assert not ref.is_nil()


@case("JobID and TaskID are made of what the runtime context says")
def ids_of_jobs_and_tasks(ray):
    @ray.remote
    def ids():
        context = ray.get_runtime_context()
        return context.get_job_id(), context.get_task_id()

    job, task = ray.get(ids.remote(), timeout=12)
    assert job == ray.get_runtime_context().get_job_id()
    assert ray.JobID.from_hex(job).hex() == job
    assert ray.JobID.from_int(3).int() == 3
    assert ray.TaskID.from_hex(task).hex() == task


@case("the runtime context gives ids as objects, too")
def ids_of_the_context(ray):
    @ray.remote
    class Actor:
        def ids(self):
            context = ray.get_runtime_context()
            found = context.job_id, context.node_id, context.actor_id
            return [one.hex() for one in found], [
                context.get_job_id(),
                context.get_node_id(),
                context.get_actor_id(),
            ]

    objects, texts = ray.get(Actor.remote().ids.remote(), timeout=12)
    assert objects == texts


@case("Class.__ray_metadata__ has the decorated class and its name")
def metadata_of_a_class(ray):
    @ray.remote
    class Actor:
        def call(self):
            return 1

    assert Actor.__ray_metadata__.class_name.endswith("Actor")
    assert Actor.__ray_metadata__.modified_class.call(None) == 1


@case("ActorPool has the parts by which programs extend it")
def parts_of_the_actor_pool(ray):
    @ray.remote
    class Actor:
        def call(self, x):
            return x

    pool = submodule(ray, "util").ActorPool([Actor.remote(), Actor.remote()])
    for number in range(5):
        pool.submit(lambda actor, x: actor.call.remote(x), number)
    counts = len(pool._idle_actors), len(pool._future_to_actor), len(pool._pending_submits)
    assert counts == (0, 2, 3)
    assert [pool.get_next(timeout=12) for _ in range(5)] == list(range(5))
    pool._return_actor(Actor.remote())
    assert len(pool._idle_actors) == 3


@case("util.multiprocessing.Pool: map, starmap, imap, imap_unordered, apply, apply_async")
def pool_of_processes(ray):
    with submodule(ray, "util.multiprocessing").Pool(2) as pool:
        assert pool.map(lambda x: x * x, range(10)) == [x * x for x in range(10)]
        assert pool.starmap(lambda x, y: x + y, [(1, 2), (3, 4)]) == [3, 7]
        assert list(pool.imap(lambda x: x + 1, range(4))) == [1, 2, 3, 4]
        assert sorted(pool.imap_unordered(lambda x: x + 1, range(4))) == [1, 2, 3, 4]
        assert pool.apply(lambda: 3) == 3
        waiting = pool.apply_async(lambda x: x, (5,))
        assert waiting.get(timeout=12) == 5
        assert waiting.ready()
        assert waiting.successful()


@case("a Pool's initializer runs in each process, before the work")
def initializer_of_a_pool(ray):
    def begin(value):
        importlib.import_module("os").environ["POOL_OF_A_CASE"] = value

    def look(_):
        return importlib.import_module("os").environ.get("POOL_OF_A_CASE")

    with submodule(ray, "util.multiprocessing").Pool(2, begin, ("yes",)) as pool:
        assert set(pool.map(look, range(4), chunksize=1)) == {"yes"}


@case("what a Pool's function raises is raised by get(); an error callback gets it, too")
def error_in_a_pool(ray):
    def fail(x):
        raise KeyError(x)

    seen = []
    with submodule(ray, "util.multiprocessing").Pool(1) as pool:
        waiting = pool.apply_async(fail, (1,), error_callback=seen.append)
        with raises(KeyError):
            waiting.get(timeout=12)
        deadline = time.monotonic() + 5
        while not seen and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "KeyError" in repr(seen[0])


@case("a Pool larger than the cluster is a ValueError")
def pool_that_is_too_large(ray):
    with raises(ValueError):
        submodule(ray, "util.multiprocessing").Pool(1000)


@case("a Pool that is closed takes no more work")
def pool_that_is_closed(ray):
    pool = submodule(ray, "util.multiprocessing").Pool(1)
    pool.close()
    with raises(ValueError):
        pool.map(abs, [1])
    pool.join()


@case("log_once() is true once for each key")
def log_once(ray):
    once = submodule(ray, "util").log_once
    assert [once("case-a"), once("case-a"), once("case-b")] == [True, False, True]


@case("enable_periodic_logging() and disable_log_once_globally() are for one process")
def log_once_in_other_ways(ray):
    @ray.remote
    class Logger:
        def log(self):
            debug = submodule(ray, "util.debug")
            debug.enable_periodic_logging()
            found = [debug.log_once("case-c"), debug.log_once("case-c")]
            debug.disable_log_once_globally()
            return [*found, debug.log_once("case-d")]

    assert ray.get(Logger.remote().log.remote(), timeout=12) == [True, False, False]
    assert submodule(ray, "util.debug").log_once("case-d")


@case("joblib's Parallel runs on the cluster once register_ray() was called")
def joblib_backend(ray):
    joblib = importlib.import_module("joblib")
    submodule(ray, "util.joblib").register_ray()
    with joblib.parallel_backend("ray", n_jobs=2):
        found = joblib.Parallel()(joblib.delayed(divmod)(n, 3) for n in range(12))
    assert found == [divmod(n, 3) for n in range(12)]


@case("tqdm_ray.tqdm counts what is iterated over and may be updated and closed")
def progress(ray):
    bars = submodule(ray, "experimental.tqdm_ray")
    assert list(bars.tqdm(range(3), desc="count")) == [0, 1, 2]
    bar = bars.tqdm(total=10)
    bar.set_description("more")
    bar.update(4)
    bar.refresh()
    bar.close()


@case("_private.services.get_node_ip_address() is this node's address")
def address_of_this_node(ray):
    found = submodule(ray, "_private.services").get_node_ip_address()
    assert found == submodule(ray, "util").get_node_ip_address()


@case("the version passes gates that programs have")
def version_gate(ray):
    major, minor = ray.__version__.split(".")[:2]
    assert (int(major), int(minor)) >= (2, 40)


@case("LoggingConfig takes encoding, level and more attributes, and refuses others")
def logging_config(ray):
    config = ray.LoggingConfig(encoding="JSON", log_level="DEBUG")
    assert (config.encoding, config.log_level) == ("JSON", "DEBUG")
    with raises(ValueError):
        ray.LoggingConfig(encoding="XML")


@case("LoggingConfig configures the actors and tasks of the job, which say where they log")
def logging_config_of_a_job(ray):
    said = run_driver(
        ray,
        """
import io, json, logging
ray.init(log_to_driver=False, logging_config=ray.LoggingConfig(
    encoding="JSON", log_level="DEBUG", additional_log_standard_attrs=["name"]))

def tell(context):
    root = logging.getLogger()
    said = [handler for handler in root.handlers if handler.formatter is not None][-1]
    said.setStream(io.StringIO())
    logging.getLogger("till").debug("took %d", 5, extra={"item": "tea"})
    line = json.loads(said.stream.getvalue().splitlines()[0])
    ids = line["actor_id"] == context.get_actor_id(), line["task_id"] == context.get_task_id()
    return root.level, line["message"], line["name"], line["item"], line["task_func_name"], ids

@ray.remote
class Till:
    def tell(self):
        return tell(ray.get_runtime_context())

level, message, name, item, function, ids = ray.get(Till.remote().tell.remote())
print(level, message, name, item, function.rpartition(".")[2], all(ids), sep=";")
""",
    )
    assert said.split("\n")[0] == "10;took 5;till;tea;tell;True"


@case("__ray_actor_class__ of an actor class is the decorated class itself")
def class_behind_an_actor_class(ray):
    @ray.remote
    class Scale:
        def __init__(self, factor):
            self.factor = factor

        def apply(self, value):
            return self.factor * value

    plain = Scale.__ray_actor_class__
    assert plain(3).apply(4) == 12
    assert plain.apply(plain(2), 5) == 10


@case("a handle has its actor's id and class under the names that programs use")
def private_names_of_a_handle(ray):
    @ray.remote
    class Probe:
        def own_id(self):
            return ray.get_runtime_context().get_actor_id()

    probe = Probe.remote()
    assert probe._ray_actor_id.hex() == ray.get(probe.own_id.remote(), timeout=12)
    described = probe._ray_actor_creation_function_descriptor
    assert described.class_name.endswith("Probe")
    assert described.module_name == Probe.__ray_actor_class__.__module__


@case("types are found where programs import them: types, remote_function, _raylet, pool")
def places_of_types(ray):
    @ray.remote
    def work():
        return 1

    @ray.remote
    def count():
        yield 1

    assert isinstance(work, submodule(ray, "remote_function").RemoteFunction)
    ref, generator = work.remote(), count.remote()
    internals = submodule(ray, "_raylet")
    assert isinstance(ref, internals.ObjectRef)
    assert isinstance(generator, internals.ObjectRefGenerator)
    assert submodule(ray, "types").ObjectRef[int] is not None
    pools = submodule(ray, "util.multiprocessing.pool"), submodule(ray, "util.multiprocessing")
    assert pools[0].Pool is pools[1].Pool
    assert ray.get([ref, next(generator)], timeout=12) == [1, 1]


@case("what init() returns has versions, addresses, no need of a dashboard, and disconnect()")
def context_of_a_program(ray):
    text = """
context = ray.init()
print(context.ray_version == ray.__version__, context.python_version.count("."))
print(bool(context.address_info["node_ip_address"]), "session_dir" in context.address_info)
print(context.dashboard_url or "no dashboard")
context.disconnect()
print(ray.is_initialized())
"""
    lines = run_driver(ray, text).split("\n")
    assert [lines[0], lines[1], lines[3]] == ["True 2", "True True", "False"], lines
    assert lines[2]
