"""Ten counters side by side, then one counter five times: parallel and serial.

Different actors run at the same time.  Calls to one actor run one after another, in the
order in which they were made, and share its state.
"""

import celery_actors as ray

ray.init()


@ray.remote
class Counter:
    def __init__(self):
        self.value = 0

    def increment(self):
        self.value += 1
        return self.value


counters = [Counter.remote() for _ in range(10)]

# One call to each of ten actors: these run in parallel.
results = ray.get([counter.increment.remote() for counter in counters])
print(results)  # [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]

# Five calls to the same actor: these run one after another.
results = ray.get([counters[0].increment.remote() for _ in range(5)])
print(results)  # [2, 3, 4, 5, 6]
