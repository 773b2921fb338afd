"""A Redis user with exactly the rights that the documentation gives, and with one less."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from shop import Shop
from waiting import wait_until, wait_until_alive

import celery_actors as ray
from celery_actors.exceptions import ConfigurationError, TaskCancelledError
from celery_actors.handle import actor_id_of
from celery_actors.ids import mailbox_name
from celery_actors.local import PrivateCluster
from celery_actors.store.rights import COMMANDS
from celery_actors.util.metrics import Counter
from celery_actors.util.placement_group import placement_group, remove_placement_group
from celery_actors.util.state import list_actors, list_tasks

_DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"


def documented() -> list[str]:
    """The rules in the documentation, without the user's name and password."""
    found = re.search(r"ACL SETUSER actors on >PASSWORD ((?:.|\\\n)*?)\n```", _DOCUMENT.read_text())
    assert found is not None
    return found[1].replace("\\\n", " ").split()


@pytest.fixture
def admin(brokers: PrivateCluster) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(brokers.address.result_backend) as client:
        yield client
        client.execute_command("ACL", "DELUSER", "limited")


def limited(brokers: PrivateCluster, admin: redis.Redis, rules: list[str], db: int = 0) -> str:
    """Make a user with these rules; returns the URL with which it connects."""
    password = secrets.token_hex(8)
    admin.execute_command("ACL", "SETUSER", "limited", "reset", "on", f">{password}", *rules)
    admin.execute_command("ACL", "LOG", "RESET")
    port = admin.connection_pool.connection_kwargs["port"]
    return f"redis://limited:{password}@127.0.0.1:{port}/{db}"


@ray.remote
class Till:
    def __init__(self) -> None:
        self.sum = 0
        self.counter = Counter("added", "what was added")

    def add(self, amount: int) -> int:
        self.sum += amount
        self.counter.inc(amount)
        return self.sum

    def total(self) -> int:
        return self.sum

    def large(self, size: int) -> bytes:
        return b"x" * size

    def each(self, count: int) -> Iterator[int]:
        yield from range(count)


@ray.remote
class Waiter:
    async def idle(self) -> None:
        await asyncio.Event().wait()


@ray.remote
def double(n: int) -> int:
    return 2 * n


@ray.remote
def nested(refs: list[Any]) -> Any:
    return [ray.get(refs[0]), ray.get(double.remote(4)), ray.put("inner")]


def _use_everything(shop: Shop, admin: redis.Redis, folder: Path) -> None:
    (folder / "part.py").write_text("NAME = 'part'")
    wait_until(ray.nodes, "the node")
    till = Till.options(name="till", max_restarts=1).remote()
    assert ray.get([till.add.remote(1) for _ in range(20)], timeout=60)[-1] == 20
    assert len(ray.get(till.large.remote(30_000), timeout=60)) == 30_000
    assert len(ray.get(till.large.remote(1_000_000), timeout=60)) == 1_000_000
    stream = till.each.options(num_returns="streaming").remote(50)
    assert [ray.get(ref) for ref in stream] == list(range(50))
    one, eight, inner = ray.get(nested.remote([ray.put(1)]), timeout=60)
    assert (one, eight, ray.get(inner, timeout=60)) == (1, 8, "inner")
    assert ray.get(ray.get_actor("till").total.remote(), timeout=60) == 20
    waiter = Waiter.remote()
    wait_until_alive(waiter)
    idle = waiter.idle.remote()
    ray.cancel(idle)
    with pytest.raises(TaskCancelledError):
        ray.get(idle, timeout=60)
    packed = double.options(runtime_env={"py_modules": [str(folder / "part.py")]})
    assert ray.get(packed.remote(3), timeout=60) == 6
    group = placement_group([{"CPU": 1}])
    assert group.wait(60)
    remove_placement_group(group)
    assert list_actors()
    assert list_tasks() is not None
    queue = mailbox_name(actor_id_of(till))
    # Of an app that reads no results: Celery's own backend needs rights of its own.
    with Celery("plain", broker=shop.app.conf.broker_url, set_as_current=False) as plain:
        result = plain.send_task("Till.add", args=[2], queue=queue)
    wait_until(lambda: admin.delete(f"celery-task-meta-{result.id}"), "the plain client's result")
    assert ray.get(till.total.remote(), timeout=60) == 22
    ray.kill(till)


def test_the_documented_rights_are_enough(
    brokers: PrivateCluster, admin: redis.Redis, tmp_path: Path
) -> None:
    url = limited(brokers, admin, documented())
    shop = Shop(tmp_path / "shop", brokers, {"result_backend": url})
    with shop.worker("--num-cpus", "4"):
        ray.init(app=shop.app)
        try:
            _use_everything(shop, admin, tmp_path)
        finally:
            ray.shutdown()
    denied = admin.execute_command("ACL", "LOG")
    assert not denied, f"{denied}; the worker: {shop.logged()[-2000:]}"


def test_the_documentation_has_all_commands_and_no_others() -> None:
    rules = documented()
    assert sorted(rule[1:] for rule in rules if rule.startswith("+")) == sorted(COMMANDS)


@pytest.mark.parametrize(
    ("rule", "missing", "gives"),
    [
        (["-eval"], "EVAL", "+eval"),
        (["-evalsha", "-script|load"], "EVALSHA, SCRIPT LOAD", "+evalsha +script|load"),
        (["-multi"], "MULTI", "+multi"),
        (["-subscribe"], "SUBSCRIBE", "+subscribe"),
        (["resetchannels"], "the channels ca:*", "&ca:*"),
        (["resetkeys", "~other:*"], "the keys ca:*", "~ca:*"),
    ],
)
def test_a_missing_right_is_named(
    brokers: PrivateCluster,
    admin: redis.Redis,
    tmp_path: Path,
    rule: list[str],
    missing: str,
    gives: str,
) -> None:
    url = limited(brokers, admin, [*documented(), *rule])
    shop = Shop(tmp_path, brokers, {"result_backend": url})
    with pytest.raises(ConfigurationError) as caught:
        ray.init(app=shop.app)
    assert f"needs: {missing}. " in str(caught.value)
    assert f"`ACL SETUSER limited {gives}`" in str(caught.value)
    assert not ray.is_initialized()


def test_a_database_that_may_not_be_selected(
    brokers: PrivateCluster, admin: redis.Redis, tmp_path: Path
) -> None:
    shop = Shop(tmp_path, brokers, {"result_backend": limited(brokers, admin, documented(), 1)})
    with pytest.raises(ConfigurationError, match=r"needs: SELECT\. ") as caught:
        ray.init(app=shop.app)
    assert "`ACL SETUSER limited +select`" in str(caught.value)


def test_a_node_without_a_right_ends_and_says_so(
    brokers: PrivateCluster, admin: redis.Redis, tmp_path: Path
) -> None:
    rules = [rule for rule in documented() if not rule.startswith("~celery-task-meta")]
    url = limited(brokers, admin, rules)
    shop = Shop(tmp_path, brokers, {"result_backend": url})
    with shop.worker() as worker:
        wait_until(lambda: worker.poll() is not None, "the end of the worker")
        assert worker.returncode != 0
    assert "the keys celery-task-meta-*" in shop.logged()
    assert "ACL SETUSER limited ~celery-task-meta-*" in shop.logged()
