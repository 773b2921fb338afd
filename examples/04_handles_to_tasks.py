"""A handle passed to four tasks that call the actor for ever, while we read its counter.

The tasks never wait for an answer.  What they send is bounded all the same: each is held
back when too many of its calls are unresolved, so memory stays flat however long it runs.
The end of this program ends them.
"""

import time

import celery_actors as ray

ray.init(num_cpus=4)  # each running task holds one CPU


@ray.remote
class Counter:
    def __init__(self):
        self.counter = 0

    def inc(self):
        self.counter += 1

    def get_counter(self):
        return self.counter


@ray.remote
def f(counter):
    while True:
        counter.inc.remote()


counter = Counter.remote()

# Start some tasks that use the actor.
[f.remote(counter) for _ in range(4)]

# The tasks are under way when the first of their calls has arrived.
while not ray.get(counter.get_counter.remote()):
    pass

# Print the counter value, five times a second.
for _ in range(10):
    print(ray.get(counter.get_counter.remote()))
    time.sleep(0.2)
