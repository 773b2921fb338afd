"""Plain Celery in and out: an app that knows nothing of actors calls one by its queue.

In: ``send_task`` with the mailbox as the queue.  Out: ``AsyncResult`` with a call's task id,
read by an app on which :func:`celery_actors.install` was called.
"""

import os

from celery import Celery
from celery.result import AsyncResult

import celery_actors as ray


@ray.remote
class Counter:
    def __init__(self):
        self.value = 0

    def increment(self, by=1):
        self.value += by
        return self.value


info = ray.init("local")
cluster = info.address
counter = Counter.remote()
ref = counter.increment.remote()
queue = ray.mailbox_of(counter)
print(f"The actor's mailbox is the queue {queue}.")
urls = {"broker": cluster.broker_url, "backend": cluster.result_backend}

# A shop's own Celery app: JSON messages, nothing of this package in it.
shop = Celery("shop", **urls)
answer = shop.send_task("Counter.increment", kwargs={"by": 41}, queue=queue)
print(f"Called by plain Celery: {answer.get(timeout=10)}")

# With the package installed and the cluster's key, Celery reads what ray.get() reads.
os.environ["CELERY_ACTORS_KEY_FILE"] = str(cluster.key_file)
office = ray.install(Celery("office", **urls))
print(f"Read by AsyncResult: {AsyncResult(ref.task_id(), app=office).get(timeout=10)}")
