"""PROTOCOL, Commit, Waiting, Ref arguments: what is stored, pushed, announced, released."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from chaos_actors import Log, PlainLog
from faults import cut_redis, stopped, unacknowledged, wait_gone
from raw import RawCaller
from waiting import record_of, wait_until, wait_until_alive

import celery_actors as ray
from celery_actors.client.current import require_process
from celery_actors.exceptions import ActorDiedError, OwnerDiedError
from celery_actors.ids import (
    mailbox_name,
    new_actor_id,
    new_caller_id,
    object_id,
    split_object_id,
)
from celery_actors.local import PrivateCluster
from celery_actors.protocol.values import Copy
from celery_actors.store.committer import Commit, CommitFailed, CommitRefused, Committer
from celery_actors.store.results import Results

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture
def gate(tmp_path: Path) -> tuple[str, str]:
    return str(tmp_path / "started"), str(tmp_path / "gate")


def open_gate(gate: tuple[str, str]) -> None:
    Path(gate[1]).touch()


def wait_started(gate: tuple[str, str]) -> None:
    wait_until(Path(gate[0]).exists, "the call to run")


def deafen() -> None:
    """This process's pushes are lost, and its connection is not."""
    replies = require_process().replies
    replies._connection.send("UNSUBSCRIBE", replies.caller_channel)


def committed(log: ray.ActorHandle[Any], ref: ray.ObjectRef[Any]) -> bool:
    """Whether the actor has committed a call of this process."""
    process = require_process()
    _, sequence, _ = split_object_id(ref.binary())
    cursor: Any = process.redis.hget(
        process.results.cursors(log._celery_actor), process.caller.hex()
    )
    return int(cursor or 0) >= sequence


# -- commits -----------------------------------------------------------------------------


@pytest.fixture
def committer(brokers: PrivateCluster) -> Any:
    process = require_process()
    actor = new_actor_id()
    key = f"ca:actor:{actor.hex()}"
    process.redis.hset(key, "incarnation", "one")
    results = Results(process.redis, "ca:", 60)
    made = Committer(results, process.redis, key, actor, "one")
    made.open()
    yield made, results, key
    made.close()
    process.redis.delete(key, results.cursors(actor), *process.redis.keys("ca:r:" + "ab" * 8 + "*"))


def commit_of(value: bytes, sequence: int = 1) -> Commit:
    caller = b"\xab" * 8
    return Commit(
        {caller: [(object_id(caller, sequence), sequence, 0, value, False)]},
        {caller.hex(): str(sequence)},
    )


def test_an_equal_commit_number_is_ok_and_applies_nothing(committer: Any) -> None:
    made, results, _ = committer
    made.send(commit_of(b"first"))
    made.finish()
    made._number -= 1  # as after an answer that was lost
    made.send(commit_of(b"again"))
    made.finish()
    assert results.fetch([object_id(b"\xab" * 8, 1)]) == [b"first"]


def test_a_commit_number_that_skips_is_refused(committer: Any) -> None:
    made, results, _ = committer
    made._number += 1
    made.send(commit_of(b"skipped"))
    with pytest.raises(CommitFailed, match="REFUSED number 0"):
        made.finish()
    assert results.fetch([object_id(b"\xab" * 8, 1)]) == [None]


def test_another_incarnations_commit_is_refused(committer: Any) -> None:
    made, results, key = committer
    require_process().redis.hset(key, "incarnation", "two")
    made.send(commit_of(b"late"))
    with pytest.raises(CommitRefused, match="incarnation"):
        made.finish()
    assert results.fetch([object_id(b"\xab" * 8, 1)]) == [None]


@pytest.mark.parametrize("value", [b"value", os.urandom(40_000)], ids=["small", "large"])
def test_forgotten_scripts_are_loaded_again(committer: Any, value: bytes) -> None:
    made, results, _ = committer
    require_process().redis.script_flush()
    made.send(commit_of(value))
    made.finish()
    assert results.fetch([object_id(b"\xab" * 8, 1)]) == [value]


def test_a_commit_that_redis_can_not_take_now_waits_and_tells_nobody(committer: Any) -> None:
    made, results, _ = committer
    client, caller = require_process().redis, "ab" * 8
    with client.pubsub(ignore_subscribe_messages=True) as pushes:
        pushes.subscribe(results.channel(caller))
        pushes.get_message(timeout=5)  # the subscription
        commit = Commit({}, {caller: "1"}, [(caller, b"push")])
        client.config_set("maxmemory", "1")
        try:
            made.send(commit)
            finished = threading.Thread(target=made.finish)
            finished.start()
            assert pushes.get_message(timeout=1) is None, "the cursor is not written"
            assert finished.is_alive()
        finally:
            client.config_set("maxmemory", "0")
        finished.join(60)
        assert not finished.is_alive()
        pushed = wait_until(lambda: pushes.get_message(timeout=1), "the push")
    assert pushed["data"] == b"push"
    assert client.hget(results.cursors(made._actor), caller) == b"1"


# Large values are stored by a transaction around the script, which can't see them.


def transactions() -> int:
    stats: Any = require_process().redis.info("commandstats")
    return int(stats.get("cmdstat_exec", {"calls": 0})["calls"])


def test_large_values_go_past_the_script(committer: Any) -> None:
    made, results, key = committer
    caller = b"\xab" * 8
    values = [b"small", os.urandom(9_000), os.urandom(9_000), b"also small"]
    sequences = [60, 62, 64, 66]  # two hashes
    oids = [object_id(caller, sequence) for sequence in sequences]
    stored = list(zip(oids, sequences, [0] * 4, values, [False] * 4, strict=True))
    before = transactions()
    for number in range(3):
        require_process().redis.hset(key, "restarts", number)  # of no matter to a commit
        made.send(Commit({caller: stored}, {caller.hex(): "66"}))
        made.finish()
        assert results.fetch(oids) == values
        results.release(oids)
        assert results.fetch(oids) == [None] * 4
    assert transactions() == before + 5, "once, and twice where the record had changed"
    made.send(commit_of(b"x" * 10_000))
    made.finish()
    assert transactions() == before + 5, "one of 10 KB is not worth it"
    lifetime = require_process().redis.pttl(results.block(caller, 1))
    assert 0 < lifetime <= results.ttl_ms


@pytest.mark.parametrize("committed_before", [False, True])
def test_another_incarnations_large_commit_is_refused(
    committer: Any, committed_before: bool
) -> None:
    made, results, key = committer
    if committed_before:
        made.send(commit_of(b"1" * 40_000, 1))
        made.finish()
    require_process().redis.hset(key, "incarnation", "two")
    # The first looks at the record before it is sent, the others do behind the one before.
    refused = made.finish if committed_before else partial(made.send, commit_of(b"2" * 40_000, 2))
    if committed_before:
        made.send(commit_of(b"2" * 40_000, 2))
    with pytest.raises(CommitRefused, match="incarnation"):
        refused()
    assert results.fetch([object_id(b"\xab" * 8, 2)]) == [None]


def test_a_large_commit_is_repeated_after_a_lost_connection(committer: Any) -> None:
    made, results, _ = committer
    for sequence in (1, 2):
        made.send(commit_of(b"x" * 40_000, sequence))
        made._connection.close()  # before or after Redis ran it: both end the same
        made.finish()
        assert results.fetch([object_id(b"\xab" * 8, sequence)]) == [b"x" * 40_000]
    made.send(commit_of(b"small", 3))
    made.finish()


def test_what_a_repeat_stores_once_more_expires(committer: Any) -> None:
    made, results, _ = committer
    oid = object_id(b"\xab" * 8, 1)
    made.send(commit_of(b"x" * 40_000))
    wait_until(lambda: results.fetch([oid]) != [None], "the commit to be stored")
    results.release([oid])  # its caller has it
    made._connection.close()  # and the answer is lost
    made.finish()
    lifetime = require_process().redis.pttl(results.block(b"\xab" * 8, 1))
    assert 0 < lifetime <= results.ttl_ms


def test_a_transaction_that_redis_refuses_says_why(committer: Any) -> None:
    made, results, _ = committer
    client = require_process().redis
    client.execute_command(
        "ACL", "SETUSER", "limited", "on", "nopass", "~*", "&*", "+@all", "-hset"
    )
    try:
        made._connection.send("AUTH", "limited", "any")
        made._connection.reply(timeout=10)
        made.send(commit_of(b"x" * 40_000))
        with pytest.raises(CommitFailed, match="NOPERM"):
            made.finish()
    finally:
        client.execute_command("ACL", "DELUSER", "limited")
    assert results.fetch([object_id(b"\xab" * 8, 1)]) == [None]


@pytest.mark.parametrize("where", ["reply", "send_all"])
def test_a_commit_that_was_cut_short_is_repeated_whole(
    committer: Any, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    made, results, _ = committer
    made.send(commit_of(b"small", 1))
    made.finish()
    connection, real = made._connection, getattr(made._connection, where)
    left = iter([True, True, False])

    def cut(*arguments: Any, **named: Any) -> Any:
        if next(left):
            return real(*arguments, **named)
        monkeypatch.undo()
        if where == "send_all":
            connection._sock.sendall(b"*1\r\n$5\r\nMULTI\r\n*4\r\n$4\r\nHS")
        else:
            real(*arguments, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(connection, where, cut)

    def commit_three() -> None:
        for sequence in (2, 3, 4):
            made.send(commit_of(b"x" * 40_000, sequence))
            made.finish()

    with pytest.raises(KeyboardInterrupt):
        commit_three()
    made.finish()
    assert results.fetch([object_id(b"\xab" * 8, made._number)]) == [b"x" * 40_000]
    assert int(require_process().redis.hget(made._cursors, "#")) == made._number


def test_who_waits_for_a_large_value_is_told(committer: Any) -> None:
    made, results, _ = committer
    oid, waiter = object_id(b"\xab" * 8, 1), "cd" * 8
    with require_process().redis.pubsub(ignore_subscribe_messages=True) as told:
        told.subscribe(results.channel(waiter))
        assert results.fetch_or_wait(oid, waiter) is None
        made.send(commit_of(b"x" * 40_000))
        made.finish()
        messages = []

        def heard() -> bool:
            message = told.get_message()
            if message:
                messages.append(message["data"])
            return bool(messages)

        wait_until(heard, "the waiter to be told")
    assert messages == [b"W" + oid.hex().encode()]


def test_a_refused_process_exits_without_acknowledging(
    start_node: Any, brokers: PrivateCluster
) -> None:
    log = Log.remote()
    pid = ray.get(log.pid.remote())
    queue = mailbox_name(log._celery_actor)
    wait_until(lambda: unacknowledged(brokers, queue) == 0, "the acknowledgement of a call")
    (node,) = require_process().control.nodes()
    with stopped(node):  # it would delete the mailbox of what it reaps
        key = f"ca:actor:{log._celery_actor.hex()}"
        incarnation = record_of(log).incarnation
        require_process().redis.hset(key, "incarnation", "another")
        process = require_process()
        ref = log.add.remote("me", 1)
        process.sender.express.settle()  # its message is in the mailbox, whichever way it came
        wait_gone([pid], "the process of another incarnation")

        def left() -> int:
            with process.mailbox.lock:
                channel = process.mailbox._need_channel()
                return int(channel.queue_declare(queue, passive=True).message_count)

        wait_until(lambda: left() == 1, "its message to be there for the other incarnation")
        assert not committed(log, ref)
        process.redis.hset(key, "incarnation", incarnation)
    with pytest.raises(ActorDiedError, match="no longer the actor"):
        ray.get(ref, timeout=60)


def test_the_first_results_of_a_slow_batch_are_not_withheld(gate: tuple[str, str]) -> None:
    log = Log.remote()
    with RawCaller(log) as caller:
        fast = [(n, n - 1, "add", ("raw", n)) for n in range(1, 31)]
        caller.send(*fast, (31, 30, "hold", gate))
        wait_started(gate)
        caller.wait_for(30)  # the last ones finished while a commit was in flight
        caller.listen()
        assert caller.pushes[-1][0].cursor.high == 30
        open_gate(gate)
        caller.wait_for(31)


def test_nothing_past_an_unexecuted_delivery_is_acknowledged(
    gate: tuple[str, str], brokers: PrivateCluster, tmp_path: Path
) -> None:
    log = Log.remote()
    first = str(tmp_path / "started1"), str(tmp_path / "gate1")
    with RawCaller(log) as caller:
        caller.send((1, 0, "hold", first))
        for n in range(2, 6):
            caller.add(n)
        caller.send((6, 5, "hold", gate))
        for n in range(7, 50):
            caller.add(n)
        queue = mailbox_name(log._celery_actor)
        wait_until(lambda: unacknowledged(brokers, queue) == 49, "all to be delivered")
        open_gate(first)
        wait_started(gate)
        # The executor asks for acknowledgements when many are out; 1 to 5 are finished.
        wait_until(lambda: unacknowledged(brokers, queue) < 49, "the acknowledgement of some")
        assert unacknowledged(brokers, queue) >= 44
        open_gate(gate)
        caller.wait_for(49)
        wait_until(lambda: unacknowledged(brokers, queue) == 0, "the acknowledgement of all")


class AsyncLog(PlainLog):
    async def nothing(self) -> None:
        """Makes it an asyncio actor."""


LOGS = {
    "serial": Log,
    "threaded": Log.options(max_concurrency=3),
    "asyncio": ray.remote(AsyncLog),
}


@pytest.mark.parametrize("kind", LOGS)
def test_the_answer_to_the_last_commit_is_read_though_no_call_follows(
    kind: str, brokers: PrivateCluster
) -> None:
    log = LOGS[kind].remote()
    queue = mailbox_name(log._celery_actor)
    for n in range(3):
        assert ray.get(log.add.remote("me", n)) == n
        require_process().sender.express.settle()
        wait_until(lambda: unacknowledged(brokers, queue) == 0, "the acknowledgement of the call")


@pytest.mark.parametrize("kind", LOGS)
def test_a_commit_that_redis_had_no_room_for_is_sent_again_though_no_call_follows(
    kind: str,
) -> None:
    log = LOGS[kind].remote()
    wait_until_alive(log)
    client = require_process().redis
    client.config_set("maxmemory", "1")
    try:
        ref = log.add.remote("me", 1)
        assert ray.wait([ref], timeout=1.0)[0] == [], "its result can't be stored"
    finally:
        client.config_set("maxmemory", "0")
    assert ray.get(ref, timeout=60) == 1


# -- stored values --------------------------------------------------------------------------


def stored(ref: ray.ObjectRef[Any]) -> bool:
    return require_process().results.fetch([ref.binary()]) != [None]


def test_released_values_leave_redis() -> None:
    log = Log.remote()
    ref = log.add.remote("me", 1)
    assert ray.get(ref) == 1
    assert stored(ref)
    oid = ref.binary()
    del ref
    process = require_process()
    wait_until(lambda: process.results.fetch([oid]) == [None], "the value to leave Redis")


def test_held_values_are_extended() -> None:
    log = Log.remote()
    ref = log.add.remote("me", 1)
    ray.get(ref)
    process = require_process()
    key = process.results.block(ref.binary()[:8], int.from_bytes(ref.binary()[8:16], "big"))
    process.redis.pexpire(key, 20_000)
    process.housekeeping._extend_due = 0.0
    process.listener.wake()
    wait_until(lambda: process.redis.pttl(key) > 100_000, "the value's life to be extended")


def test_calls_whose_refs_were_dropped_unsent_store_nothing(gate: tuple[str, str]) -> None:
    log = Log.remote()
    ray.get(log.pid.remote())
    held = log.hold.remote(*gate)
    wait_started(gate)
    process = require_process()
    with process.mailbox.lock:  # nothing can be sent meanwhile
        refs = [log.add.remote("me", n) for n in range(5)]
        oids = [ref.binary() for ref in refs]
        del refs
        kept = log.add.remote("me", 5)
    open_gate(gate)
    assert ray.get([held, kept]) == [gate[1], 5]
    assert stored(kept)
    assert process.results.fetch(oids) == [None] * 5
    assert len(ray.get(log.all.remote())) == 6, "they ran all the same"


def test_values_over_8_kb_are_announced() -> None:
    log = Log.remote()
    with RawCaller(log) as caller:
        caller.send((1, 0, "large", (6_000,)))
        caller.wait_for(1)
        caller.send((2, 1, "large", (9_000,)))
        caller.wait_for(2)
        caller.listen()
        (small, first), (large, second) = caller.pushes
        assert first > 6_000
        assert small.results[0][2] is not None
        assert second < 300
        assert isinstance(large.results[0][2], Copy), "where it may be, not what it is"
    assert len(ray.get(log.large.remote(9_000))) == 9_000


# -- waiting ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("told_only")
def test_a_lost_push_is_no_lost_wake_up(gate: tuple[str, str]) -> None:
    log = Log.remote()
    ref = log.hold.remote(*gate)
    wait_started(gate)
    deafen()
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(ray.get(ref, timeout=60)))
    thread.start()
    open_gate(gate)
    wait_until(lambda: committed(log, ref) or stored(ref), "the commit")
    assert not found
    assert cut_redis(require_process().redis, "pubsub") >= 1
    thread.join(60)
    assert found == [gate[1]]


@pytest.mark.usefixtures("told_only")
def test_death_settles_what_the_store_knows_first() -> None:
    log = Log.remote()
    pid = ray.get(log.pid.remote())
    deafen()
    try:
        ref = log.add.remote("me", 7)
        wait_until(lambda: stored(ref), "the commit")
        os.kill(pid, signal.SIGKILL)
        later = log.add.remote("me", 8)
        assert ray.get(ref, timeout=60) == 7
        with pytest.raises(ActorDiedError):
            ray.get(later, timeout=60)
    finally:
        cut_redis(require_process().redis, "pubsub")


def test_a_waiter_for_anothers_value_is_registered_and_told(gate: tuple[str, str]) -> None:
    log, other = Log.remote(), Log.remote()
    ref = log.hold.remote(*gate)
    wait_started(gate)
    value = other.get_nested.remote([ref])
    process = require_process()
    key = process.results.waiters(process.caller)
    wait_until(lambda: process.redis.hlen(key) == 1, "the waiter's place")
    open_gate(gate)
    assert ray.get(value, timeout=60) == gate[1]  # if it is not told, the other waits for longer
    assert process.redis.hlen(key) == 0
    assert ray.get(other.get_nested.remote([ref]), timeout=60) == gate[1]


def test_values_of_an_owner_that_ended_raise() -> None:
    process = require_process()
    caller = new_caller_id()
    process.control.register_caller(
        caller.hex(), process.job_id, lease=300, node_id=None, driver=False
    )
    ref = ray.ObjectRef.from_hex(object_id(caller, 1).hex())
    found: list[BaseException | None] = []
    thread = threading.Thread(target=lambda: found.append(ref.future().exception(timeout=60)))
    thread.start()
    wait_until(lambda: process.redis.hlen(process.results.waiters(caller)), "the waiter's place")
    process.control.end_caller(caller.hex())
    thread.join(60)
    (error,) = found
    assert isinstance(error, OwnerDiedError)
    assert "stored no value" in str(error)
    process.redis.delete(process.results.waiters(caller))


# -- ref arguments -----------------------------------------------------------------------------


def test_the_caller_waits_for_ref_arguments(gate: tuple[str, str]) -> None:
    slow, log = Log.remote(), Log.remote()
    behind = [log.add.remote("me", slow.hold.remote(*gate)), log.add.remote("me", 2)]
    wait_started(gate)
    with RawCaller(log) as caller:
        caller.add(1)
        caller.wait_for(1)  # the actor itself waits for nobody
        caller.send((2, 1, "count", ()))
        caller.wait_for(2)
    assert ray.wait(behind, num_returns=1, timeout=0.2)[0] == []
    assert len(require_process().outboxes[log._celery_actor].blocked) == 2, "both wait here"
    open_gate(gate)
    assert ray.get(behind, timeout=60) == [gate[1], 2]
    assert ray.get(log.all.remote()) == [("raw", 1), ("me", gate[1]), ("me", 2)]


def test_refs_of_earlier_calls_to_the_same_actor_go_at_once(gate: tuple[str, str]) -> None:
    log = Log.remote()
    held = log.hold.remote(*gate)
    last = log.add.remote("me", held)
    process = require_process()
    process.flush()
    box = process.outboxes[log._celery_actor]
    assert not box.blocked
    # Another thread may be at it; the call that it refers to ends behind the gate only.
    wait_until(lambda: not box.unsent, "the second call to be sent")
    open_gate(gate)
    assert ray.get(last, timeout=60) == gate[1]


def test_results_that_redis_calls_wrong_end_the_actor_with_that_cause() -> None:
    log = Log.remote()
    assert ray.get(log.add.remote("me", 0)) == 0
    cursors = require_process().results.cursors(log._celery_actor)
    require_process().redis.hset(cursors, "#", "no number")  # which the script can't compare
    with pytest.raises(ActorDiedError, match="could not be stored"):
        ray.get(log.add.remote("me", 1), timeout=60)
