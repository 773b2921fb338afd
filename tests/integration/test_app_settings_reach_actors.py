"""Actors are seen by the tools of the app on whose node they live."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import celery
import pytest
from shop import Shop
from waiting import wait_until, wait_until_alive

import celery_actors as ray
from celery_actors.exceptions import TaskCancelledError
from celery_actors.local import PrivateCluster
from celery_actors.util.state import list_tasks

_SETTINGS = {
    "control_exchange": "celery.shop",
    "control_queue_ttl": 60.0,
    "control_queue_expires": 40.0,
    "event_exchange": "celeryev.shop",
    "event_queue_prefix": "shop.events",
    "worker_send_task_events": True,
    "broker_login_method": "AMQPLAIN",
    "broker_heartbeat": 5,
    "broker_transport_options": {"client_properties": {"product": "the shop"}},
    "enable_utc": False,
    "timezone": "Asia/Tokyo",
}


@ray.remote
class Till:
    def __init__(self) -> None:
        self.sum = 0

    def add(self, amount: int) -> int:
        self.sum += amount
        return self.sum

    def settings(self, names: list[str]) -> dict[str, Any]:
        conf = celery.current_app.conf
        return {name: conf[name] for name in names}


@ray.remote
class Waiter:
    async def idle(self) -> None:
        await asyncio.Event().wait()


@pytest.mark.parametrize(
    "backend", ["rpc://", "file", "celery.backends.redis:RedisBackend+redis", "redis"]
)
def test_results_of_ordinary_tasks_stay_where_they_are(
    brokers: PrivateCluster, backend: str, tmp_path: Path
) -> None:
    redis_url = brokers.address.result_backend
    (tmp_path / "results").mkdir()
    settings = {"result_backend": backend, "actors_redis_url": redis_url}
    if backend == "file":
        settings["result_backend"] = f"file://{tmp_path}/results"
    elif backend.endswith("redis"):
        settings = {"result_backend": backend + redis_url.removeprefix("redis")}
    shop = Shop(tmp_path, brokers, settings)
    ray.install(shop.app)
    with shop.worker("--num-cpus", "2"):
        ray.init(app=shop.app)
        try:
            wait_until(ray.nodes, "the node")
            assert ray.get(Till.remote().add.remote(3), timeout=60) == 3
            result = shop.app.send_task("double", [21])
            assert result.get(timeout=60) == 42
            result.forget()
            if backend == "rpc://":
                shop.app.backend.result_consumer.stop()  # its queue goes with it
        finally:
            ray.shutdown()


class _Events(threading.Thread):
    """Collects the workers that say that they finished a task."""

    def __init__(self, app: celery.Celery) -> None:
        super().__init__(daemon=True)
        self._app = app
        self.ready = threading.Event()
        self.over = False
        self.workers: set[str] = set()

    def run(self) -> None:
        with self._app.connection_for_read() as connection:
            handlers = {"task-succeeded": lambda event: self.workers.add(event["hostname"])}
            receiver = self._app.events.Receiver(connection, handlers=handlers)
            with receiver.consumer_context() as (connected, *_):
                self.ready.set()
                while not self.over:
                    try:
                        connected.drain_events(timeout=0.2)
                    except TimeoutError:
                        continue


@pytest.mark.parametrize("driver", ["of the app", "of no app"])
def test_control_and_events_of_the_app(
    brokers: PrivateCluster, driver: str, tmp_path: Path
) -> None:
    shop = Shop(tmp_path, brokers, _SETTINGS)
    with shop.worker("--num-cpus", "2"):
        if driver == "of the app":
            ray.init(app=shop.app)
        else:
            ray.init(brokers.address, log_to_driver=False)
        events = _Events(shop.app)
        events.start()
        try:
            wait_until(ray.nodes, "the node")
            till = Till.remote()
            assert ray.get(till.settings.remote(list(_SETTINGS)), timeout=60) == {
                **_SETTINGS,
                "worker_send_task_events": False,  # the node says so to each actor apart
            }
            wait_until_alive(till)
            assert events.ready.wait(60)

            def seen() -> bool:
                ray.get(till.add.remote(1), timeout=60)
                return any(name.startswith("Till.") for name in events.workers)

            wait_until(seen, "an event of the actor's calls on the app's exchange")
            wait_until(lambda: shop.answers("Till."), "the actor's answer on the app's exchange")
            waiter = Waiter.remote()
            ref = waiter.idle.remote()

            def running() -> bool:
                return any(task["state"] == "RUNNING" for task in list_tasks())

            wait_until(running, "the call among the tasks that run, as its actor tells it")
            wait_until_alive(waiter)
            ray.cancel(ref)
            with pytest.raises(TaskCancelledError):
                ray.get(ref, timeout=60)
        finally:
            events.over = True
            events.join(10)
            ray.shutdown()
