"""Ten actors in parallel; one actor in order."""

import ray

ray.init()


@ray.remote
class Counter:
    def __init__(self):
        self.value = 0

    def increment(self):
        self.value += 1
        return self.value


a1 = Counter.remote()
a2 = Counter.remote()
print(ray.get(a1.increment.remote()))
print(ray.get(a2.increment.remote()))

counters = [Counter.remote() for _ in range(10)]

# These calls run in parallel.
results = ray.get([c.increment.remote() for c in counters])
print(results)

# These run one after another, on shared state.
results = ray.get([counters[0].increment.remote() for _ in range(5)])
print(results)
