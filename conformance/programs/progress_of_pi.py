"""Tasks sample points; an actor keeps the progress that the driver shows."""

import random
import time

import ray

ray.init()

TASKS, SAMPLES, PARTS = 4, 20_000, 5


@ray.remote
class Progress:
    def __init__(self, total):
        self.total = total
        self.done = {}

    def report(self, task, samples):
        self.done[task] = samples

    def part(self):
        return sum(self.done.values()) / self.total


@ray.remote
def sample(task, progress):
    generator = random.Random(task)
    inside = 0
    for i in range(1, SAMPLES + 1):
        inside += generator.random() ** 2 + generator.random() ** 2 <= 1
        if i % (SAMPLES // PARTS) == 0:
            progress.report.remote(task, i)
    return inside


progress = Progress.remote(TASKS * SAMPLES)
results = [sample.remote(task, progress) for task in range(TASKS)]

shown = [0.0]
while shown[-1] < 1.0:
    shown.append(ray.get(progress.part.remote()))
    time.sleep(0.02)
print("progress never goes back:", shown == sorted(shown))
print(f"pi is about {4 * sum(ray.get(results)) / (TASKS * SAMPLES):.2f}")
