"""Jobs with priorities: an actor keeps the heap, workers take the most urgent."""

import heapq
import itertools

import ray

ray.init()


@ray.remote
class PriorityQueue:
    def __init__(self):
        self.heap = []
        self.count = itertools.count()

    def put(self, priority, item):
        heapq.heappush(self.heap, (priority, next(self.count), item))

    def get(self):
        return heapq.heappop(self.heap)[2] if self.heap else None

    def size(self):
        return len(self.heap)


@ray.remote
class Worker:
    def __init__(self, queue):
        self.queue = queue
        self.done = []

    def work_one(self):
        job = ray.get(self.queue.get.remote())
        if job is not None:
            self.done.append(job)
        return job


queue = PriorityQueue.remote()
for priority, job in [(5, "tidy"), (1, "fire"), (3, "mail"), (1, "flood"), (4, "lunch")]:
    queue.put.remote(priority, job)
print("waiting:", ray.get(queue.size.remote()))

workers = [Worker.remote(queue) for _ in range(2)]
order = []
while True:
    job = ray.get(workers[len(order) % 2].work_one.remote())
    if job is None:
        break
    order.append(job)
print(order)
print("waiting:", ray.get(queue.size.remote()))
