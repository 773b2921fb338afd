"""Where requests go, who waits, and in which order."""

from __future__ import annotations

import pickle

import pytest

from celery_actors.control import InsufficientResources, LabelRule, NodeSpec, Target

from .cluster import ONE, Cluster, ids


def test_without_a_node_a_request_waits_and_runs_when_one_joins(cluster: Cluster) -> None:
    creation = cluster.create(spec := cluster.spec())
    assert not creation.placed
    assert creation.placements == ()
    assert cluster.state(spec.actor_id) == "PENDING"
    placements = cluster.control.register_node(
        NodeSpec(cluster.long_id(), "n1", "host", 1, {"CPU": ONE}), 60
    )
    assert ids(placements) == [spec.actor_id]
    assert cluster.state(spec.actor_id) == "PLACED"


def test_creation_answers_its_placement(cluster: Cluster) -> None:
    node = cluster.node("n1", CPU=2)
    creation = cluster.create(spec := cluster.spec(CPU=1))
    assert creation.placed
    (placement,) = creation.placements
    assert (placement.actor_id, placement.node_id) == (spec.actor_id, node)
    assert placement.kind == "actor"
    assert placement.caller_id == cluster.driver
    assert len(placement.incarnation) == 16
    assert cluster.available("n1") == {"CPU": ONE}


def test_creating_twice_answers_the_same_and_reserves_once(cluster: Cluster) -> None:
    cluster.node("n1", CPU=2)
    spec = cluster.spec(CPU=1)
    assert cluster.create(spec) == cluster.create(spec)
    waiting = cluster.spec(CPU=2)
    assert cluster.create(waiting) == cluster.create(waiting)
    assert cluster.available("n1") == {"CPU": ONE}
    assert cluster.control.waiting() == 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"GPU": 4},
            "not enough GPUs: the actor NeuralNet asks for 4 GPUs; the largest node has 2 "
            "(cluster total 3)",
        ),
        (
            {"CPU": 8.5},
            "not enough CPUs: the actor NeuralNet asks for 8.5 CPUs; the largest node has 4 "
            "(cluster total 5)",
        ),
        (
            {"robot": 1},
            "not enough robot: the actor NeuralNet asks for 1 robot; the largest node has 0 "
            "(cluster total 0)",
        ),
        (
            {"CPU": 4, "GPU": 2},
            "no single node has all that the actor NeuralNet asks for (4 CPUs, 2 GPUs), though "
            "there is enough of each by itself; the nodes: big, small",
        ),
        (
            {"CPU": 4, "node": "small"},
            "not enough CPUs: the actor NeuralNet asks for 4 CPUs; the node small has 1 "
            "(cluster total 1)",
        ),
        (
            {"CPU": 1, "node": "tiny"},
            "the actor NeuralNet asks for the node 'tiny'; the cluster has only: big, small",
        ),
    ],
)
def test_more_than_any_node_has_is_an_error_that_says_so(
    cluster: Cluster, asked: dict[str, float], message: str
) -> None:
    cluster.node("small", gpus=(0, 1), CPU=1)
    cluster.node("big", gpus=(0,), CPU=4)
    with pytest.raises(InsufficientResources) as caught:
        cluster.actor(**asked)
    assert str(caught.value) == message
    assert cluster.control.waiting() == 0
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.asked, copy.best) == (message, caught.value.asked, caught.value.best)


def test_insufficient_resources_carries_the_amounts(cluster: Cluster) -> None:
    cluster.node("n1", gpus=(0, 1))
    with pytest.raises(InsufficientResources) as caught:
        cluster.actor(kind="executor", GPU=4)
    assert caught.value.asked == {"GPU": 4 * ONE}
    assert caught.value.best == {"GPU": 2 * ONE}
    assert "the task NeuralNet asks for 4 GPUs" in str(caught.value)


@pytest.mark.parametrize("asked", [{"GPU": 1.5}, {"CPU": -1}])
def test_impossible_amounts_are_refused(cluster: Cluster, asked: dict[str, float]) -> None:
    cluster.node("n1", gpus=(0, 1), CPU=4)
    with pytest.raises(ValueError, match="NeuralNet"):
        cluster.actor(**asked)


def test_busy_resources_make_requests_wait_first_in_first_out(cluster: Cluster) -> None:
    cluster.node("n1", CPU=1)
    running = cluster.actor(CPU=1)
    waiting = [cluster.actor(CPU=amount) for amount in (1, 0.5, 0.5)]
    assert [cluster.state(actor) for actor in waiting] == ["PENDING"] * 3
    placement = cluster.run(running)
    cluster.control.kill(running, "test")
    assert cluster.control.waiting() == 3, "the process is not reaped yet"
    assert ids(cluster.reap(placement)) == waiting[:1]
    assert ids(cluster.reap(cluster.run(waiting[0]))) == waiting[1:]


def test_a_waiting_request_is_not_overtaken_by_a_smaller_one(cluster: Cluster) -> None:
    cluster.node("n1", CPU=2)
    first = cluster.run(cluster.actor(CPU=1))
    large = cluster.actor(CPU=2)
    small = cluster.actor(CPU=1)
    assert cluster.state(small) == "PENDING", "it would starve the large one"
    assert ids(cluster.reap(first)) == [large]


def test_a_waiting_gpu_request_does_not_hold_cpu_requests_back(cluster: Cluster) -> None:
    cluster.node("n1", CPU=2, gpus=(0,))
    cluster.actor(GPU=1)
    assert cluster.state(cluster.actor(GPU=1)) == "PENDING"
    assert cluster.state(cluster.actor(CPU=1)) == "PLACED"
    assert cluster.state(cluster.actor(CPU=1, GPU=1)) == "PENDING"
    assert cluster.state(cluster.actor(CPU=1)) == "PENDING", "kept for the one before"


def test_a_waiting_request_is_in_nobodys_way_where_it_could_never_run(cluster: Cluster) -> None:
    cluster.node("large", gpus=(0, 1))
    cluster.actor(node="large", GPU=1)
    cluster.node("small", gpus=(0,))
    assert cluster.state(cluster.actor(GPU=2)) == "PENDING"
    one = cluster.actor(GPU=1)
    assert cluster.node_name(one) == "small"


def test_nothing_asked_is_placed_at_once_however_long_the_line(cluster: Cluster) -> None:
    cluster.node("n1", CPU=1)
    for _ in range(3):
        cluster.actor(CPU=1)
    assert cluster.state(cluster.actor()) == "PLACED"
    assert cluster.state(cluster.actor(CPU=0)) == "PLACED"


def test_killing_a_waiting_request_lets_those_behind_it_through(cluster: Cluster) -> None:
    cluster.node("n1", CPU=2)
    cluster.actor(CPU=1)
    large, small = cluster.actor(CPU=2), cluster.actor(CPU=1)
    killed = cluster.control.kill(large, "test")
    assert killed.was_pending
    assert killed.node is None
    assert ids(killed.placements) == [small]


def test_default_choice_levels_the_nodes(cluster: Cluster) -> None:
    cluster.node("a", CPU=4)
    cluster.node("b", CPU=8)
    placed = [cluster.node_name(cluster.actor(CPU=1)) for _ in range(12)]
    assert placed[:3] == ["b", "a", "b"]
    assert (placed.count("a"), placed.count("b")) == (4, 8)


def test_without_resources_actors_go_where_there_are_fewest(cluster: Cluster) -> None:
    for name in "abc":
        cluster.node(name, CPU=1)
    assert [cluster.node_name(cluster.actor()) for _ in range(6)] == list("abcabc")


def test_spread_counts_reservations_first(cluster: Cluster) -> None:
    cluster.node("a", CPU=100)
    cluster.node("b", CPU=2)
    assert [cluster.node_name(cluster.actor(CPU=1, spread=True)) for _ in range(4)] == list("abab")
    assert cluster.node_name(cluster.actor(CPU=1)) == "a"


def test_hard_affinity_by_name_or_id_waits_for_its_node(cluster: Cluster) -> None:
    node = cluster.node("a", CPU=1)
    cluster.node("b", CPU=1)
    assert cluster.node_name(cluster.actor(CPU=1, node="b")) == "b"
    first = cluster.run(cluster.actor(CPU=1, node=node))
    second = cluster.actor(CPU=1, node="a")
    assert cluster.state(second) == "PENDING"
    assert ids(cluster.reap(first)) == [second]


def test_soft_affinity_waits_for_its_node_where_that_could_run_it(cluster: Cluster) -> None:
    cluster.node("a", CPU=8)
    cluster.node("b", CPU=1)
    first = cluster.actor(CPU=1, node="b", soft=True)
    assert cluster.node_name(first) == "b"
    second = cluster.actor(CPU=1, node="b", soft=True)
    assert cluster.state(second) == "PENDING"
    assert cluster.node_name(cluster.actor(CPU=2, node="b", soft=True)) == "a", "too small"
    assert cluster.node_name(cluster.actor(CPU=1, node="c", soft=True)) == "a", "not there"
    assert ids(cluster.reap(cluster.run(first))) == [second]
    assert cluster.node_name(second) == "b"


def test_soft_affinity_goes_elsewhere_once_its_node_is_lost(cluster: Cluster) -> None:
    cluster.node("a", CPU=1)
    lost = cluster.node("b", CPU=1)
    cluster.run(cluster.actor(CPU=1, node=lost, soft=True))
    waiting = cluster.actor(CPU=1, node=lost, soft=True)
    assert cluster.state(waiting) == "PENDING"
    cluster.control.remove_node(lost, "lost")
    assert cluster.node_name(waiting) == "a"


def test_soft_affinity_that_spills_goes_elsewhere_when_its_node_is_full(cluster: Cluster) -> None:
    cluster.node("a", CPU=8)
    cluster.node("b", CPU=1)
    spills = Target("b", soft=True, spill=True)
    assert cluster.node_name(cluster.actor(CPU=1, target=spills)) == "b"
    assert cluster.node_name(cluster.actor(CPU=1, target=spills)) == "a"


def test_what_may_run_on_a_lost_node_alone_is_dead(cluster: Cluster) -> None:
    node = cluster.node("a", CPU=1)
    cluster.node("b", CPU=1)
    actors = [cluster.actor(CPU=1, node=node) for _ in range(3)]
    by_name = cluster.actor(CPU=1, node="a")
    removal = cluster.control.remove_node(node, "lost")
    assert set(removal.dead) == set(actors)
    assert [cluster.state(actor) for actor in actors] == ["DEAD"] * 3
    assert cluster.state(by_name) == "PENDING", "a node of that name may come again"
    cluster.node("a", CPU=1)
    assert cluster.node_name(by_name) == "a"


LABELLED = {
    "a": {"zone": "x", "disk": "ssd"},
    "b": {"zone": "y"},
    "c": {"zone": "z", "disk": ""},
    "d": {},
}


@pytest.mark.parametrize(
    ("rule", "nodes"),
    [
        (LabelRule("zone", "in", ("x",)), "a"),
        (LabelRule("zone", "in", ("x", "z", "q")), "ac"),
        (LabelRule("zone", "!in", ("x",)), "bcd"),
        (LabelRule("zone", "!in", ("x", "y")), "cd"),
        (LabelRule("disk", "exists"), "ac"),
        (LabelRule("disk", "!exists"), "bd"),
        (LabelRule("disk", "in", ("",)), "c"),
    ],
)
def test_labels_choose_the_nodes(cluster: Cluster, rule: LabelRule, nodes: str) -> None:
    for name, labels in LABELLED.items():
        cluster.node(name, labels=labels, CPU=1)
    target = Target(labels=(rule,))
    actors = [cluster.actor(CPU=1, target=target) for _ in range(5)]
    placed = [cluster.node_name(actor) for actor in actors]
    assert sorted(name for name in placed if name) == list(nodes)
    assert placed[len(nodes) :] == [None] * (5 - len(nodes))
    assert cluster.node_name(cluster.actor(CPU=1)) is None or len(nodes) < 4


def test_all_rules_must_hold_and_preferred_ones_come_first(cluster: Cluster) -> None:
    for name, labels in LABELLED.items():
        cluster.node(name, labels=labels, CPU=1)
    both = (LabelRule("disk", "exists"), LabelRule("zone", "!in", ("x",)))
    assert cluster.node_name(cluster.actor(target=Target(labels=both))) == "c"
    wish = Target(
        labels=(LabelRule("zone", "exists"),), preferred=(LabelRule("zone", "in", ("z",)),)
    )
    assert [cluster.node_name(cluster.actor(CPU=1, target=wish)) for _ in range(4)] == [
        "c",
        "a",
        "b",
        None,
    ]


def test_labels_that_no_node_has_are_an_error_that_says_so(cluster: Cluster) -> None:
    cluster.node("a", labels={"zone": "x"}, CPU=1)
    cluster.node("b", CPU=4)
    wanted = (LabelRule("zone", "in", ("y", "z")), LabelRule("disk", "!in", ("hdd",)))
    with pytest.raises(InsufficientResources) as caught:
        cluster.actor(target=Target(labels=wanted))
    assert str(caught.value) == (
        "the actor NeuralNet asks for a node with the labels zone in(y,z) and disk!=hdd; the "
        "cluster has only nodes without them: a, b"
    )
    with pytest.raises(InsufficientResources, match=r"asks for 4 CPUs; .* has 1 \(cluster total 1"):
        cluster.actor(CPU=4, target=Target(labels=(LabelRule("zone", "exists"),)))


def test_whole_gpus_are_never_shared(cluster: Cluster) -> None:
    cluster.node("n1", gpus=(2, 5, 6, 7))
    three = cluster.actor(GPU=3)
    assert cluster.record(three).gpu_ids == (2, 5, 6)
    assert cluster.record(cluster.actor(GPU=1)).gpu_ids == (7,)
    placement = cluster.run(three)
    waiting = cluster.actor(GPU=2)
    assert cluster.record(waiting).gpu_ids == ()
    cluster.reap(placement)
    assert cluster.record(waiting).gpu_ids == (2, 5)
    (node,) = cluster.control.nodes()
    assert node.free_gpus == (6,)
    assert node.available["GPU"] == ONE


def test_fractions_share_the_fullest_gpu_with_room(cluster: Cluster) -> None:
    cluster.node("n1", gpus=(0, 1, 2))
    assert cluster.record(cluster.actor(GPU=0.5)).gpu_ids == (0,)
    assert cluster.record(cluster.actor(GPU=0.7)).gpu_ids == (1,)
    assert cluster.record(cluster.actor(GPU=0.3)).gpu_ids == (1,)
    assert cluster.record(cluster.actor(GPU=0.5)).gpu_ids == (0,)
    assert cluster.record(cluster.actor(GPU=0.6)).gpu_ids == (2,)
    (node,) = cluster.control.nodes()
    assert node.available["GPU"] == 4000
    assert node.free_gpus == ()
    assert cluster.state(cluster.actor(GPU=0.5)) == "PENDING"


def test_scattered_fractions_make_no_whole_gpu(cluster: Cluster) -> None:
    cluster.node("n1", gpus=(0, 1))
    half = cluster.run(cluster.actor(GPU=0.6))
    cluster.actor(GPU=0.6)
    whole = cluster.actor(GPU=1)
    assert cluster.state(whole) == "PENDING"
    assert ids(cluster.reap(half)) == [whole]
    assert cluster.record(whole).gpu_ids == (0,)


def test_amounts_beyond_a_double_are_exact(cluster: Cluster) -> None:
    memory = 2**41 * ONE + 1  # two tebibytes, and what a double cannot tell
    cluster.control.register_node(
        NodeSpec(cluster.long_id(), "n1", "host", 1, {"memory": memory}), 60
    )
    actor = cluster.actor(memory=3)
    assert cluster.available("n1") == {"memory": memory - 3 * ONE}
    cluster.reap(cluster.run(actor))
    assert cluster.available("n1") == {"memory": memory}


def test_names_of_resources_may_be_anything(cluster: Cluster) -> None:
    odd = 'r"}:!%a é\n'
    cluster.control.register_node(NodeSpec(cluster.long_id(), "n1", "host", 1, {odd: 2 * ONE}), 60)
    actor = cluster.actor(**{odd: 1})
    assert cluster.record(actor).resources == {odd: ONE}
    cluster.sweep()
    assert cluster.available("n1") == {odd: ONE}


def test_a_node_whose_lease_ended_takes_nothing(cluster: Cluster) -> None:
    node = cluster.node("n1", CPU=1)
    cluster.client.zadd("ca:nodes", {node: 1})
    assert cluster.control.nodes() == []
    actor = cluster.actor(CPU=4)
    assert cluster.state(actor) == "PENDING", "as if there were no node at all"
    cluster.control.kill(actor, "test")
    assert cluster.state(other := cluster.actor()) == "PENDING"
    cluster.control.renew_node(node, 60)
    cluster.actor()
    assert cluster.state(other) == "PLACED"


def test_unstarted_placements_are_placed_anew_elsewhere(cluster: Cluster) -> None:
    cluster.node("a", CPU=1)
    actor = cluster.actor(CPU=1)
    old = cluster.placement(actor)
    cluster.node("b", CPU=1)
    begun = cluster.actor(node="b")
    cluster.begin(begun)
    assert cluster.control.sweep_unstarted(30) == ()
    (new,) = cluster.sweep()
    assert new.actor_id == actor
    assert cluster.node_name(actor) == "b", "though a is emptier: it did not begin it"
    assert new.incarnation != old.incarnation
    assert cluster.control.begin(actor, old.incarnation, old.node_id, "c" * 16) is None
    assert cluster.available("a") == {"CPU": ONE}
    assert cluster.state(begun) == "STARTING"


def test_a_swept_placement_keeps_its_place_in_the_line(cluster: Cluster) -> None:
    cluster.node("n1", CPU=1)
    first, second = cluster.actor(CPU=1), cluster.actor(CPU=1)
    assert ids(cluster.sweep()) == [first]
    assert cluster.state(second) == "PENDING"


def test_blocking_gives_cpus_back_and_unblocking_takes_them_at_once(cluster: Cluster) -> None:
    cluster.node("n1", gpus=(0,), CPU=1)
    outer = cluster.run(cluster.actor(kind="executor", CPU=1, GPU=1))
    inner = cluster.actor(kind="executor", CPU=1)
    assert ids(cluster.control.block(outer.actor_id, outer.incarnation)) == [inner]
    assert cluster.control.block(outer.actor_id, outer.incarnation) == ()
    assert cluster.available("n1") == {"CPU": 0, "GPU": 0}, "the GPU stays with it"
    cluster.control.unblock(outer.actor_id, outer.incarnation)
    cluster.control.unblock(outer.actor_id, outer.incarnation)
    assert cluster.available("n1") == {"CPU": -ONE, "GPU": 0}
    cluster.reap(cluster.run(inner))
    cluster.reap(outer)
    assert cluster.available("n1") == {"CPU": ONE, "GPU": ONE}


def test_a_process_that_ends_while_blocked_gives_its_cpus_back_once(cluster: Cluster) -> None:
    cluster.node("n1", CPU=1)
    outer = cluster.run(cluster.actor(CPU=1))
    cluster.control.block(outer.actor_id, outer.incarnation)
    cluster.reap(outer)
    cluster.reap(outer)
    assert cluster.available("n1") == {"CPU": ONE}
    assert cluster.control.block(outer.actor_id, outer.incarnation) == ()
