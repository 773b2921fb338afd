"""Producers and consumers around a bounded queue."""

import ray
from ray.util.queue import Empty, Queue

ray.init()


@ray.remote(num_cpus=0.5)
def produce(queue, name, count):
    for i in range(count):
        queue.put(f"{name}{i}")
    return count


@ray.remote(num_cpus=0.5)
def consume(queue):
    taken = []
    while True:
        item = queue.get()
        if item is None:
            return taken
        taken.append(item.upper())


queue = Queue(maxsize=3)
consumers = [consume.remote(queue) for _ in range(2)]
produced = ray.get([produce.remote(queue, name, 4) for name in "ab"])
for _ in consumers:
    queue.put(None)
taken = sorted(item for part in ray.get(consumers) for item in part)
print("produced:", sum(produced))
print(taken)

try:
    queue.get_nowait()
except Empty:
    print("the queue is empty")
