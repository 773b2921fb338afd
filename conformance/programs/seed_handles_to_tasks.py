"""An actor's handle is given to tasks that call it for ever."""

import time

import ray

ray.init()


@ray.remote
class Counter:
    def __init__(self):
        self.counter = 0

    def inc(self):
        self.counter += 1

    def get_counter(self):
        return self.counter


@ray.remote(num_cpus=0.5)
def f(counter):
    while True:
        counter.inc.remote()
        time.sleep(0.001)


counter = Counter.remote()

# Start some tasks that use the actor.
tasks = [f.remote(counter) for _ in range(3)]

# The counter goes up while they run.
readings = [0]
while len(readings) < 6:
    value = ray.get(counter.get_counter.remote())
    if value > readings[-1]:
        readings.append(value)
    time.sleep(0.05)
print("the counter went up", len(readings) - 1, "times")

for task in tasks:
    ray.cancel(task, force=True)
