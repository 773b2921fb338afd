"""A supervisor gives work to workers, and replaces those that die."""

import os

import ray

ray.init()


@ray.remote
class Worker:
    def __init__(self, number):
        self.number = number

    def work(self, job):
        if job == "poison":
            os._exit(1)
        return f"{job} done"


@ray.remote
class Supervisor:
    def __init__(self, size):
        self.made = 0
        self.replaced = 0
        self.workers = [self.hire() for _ in range(size)]

    def hire(self):
        self.made += 1
        return Worker.remote(self.made)

    def run(self, jobs):
        results = {}
        running = {}
        waiting = list(enumerate(jobs))
        free = list(range(len(self.workers)))
        while waiting or running:
            while waiting and free:
                index, job = waiting.pop(0)
                slot = free.pop(0)
                running[self.workers[slot].work.remote(job)] = (index, slot)
            (ready,), _ = ray.wait(list(running))
            index, slot = running.pop(ready)
            try:
                results[index] = ray.get(ready)
            except ray.exceptions.RayActorError:
                results[index] = "worker died"
                self.workers[slot] = self.hire()
                self.replaced += 1
            free.append(slot)
        return [results[i] for i in range(len(jobs))]

    def report(self):
        return {"made": self.made, "replaced": self.replaced}


supervisor = Supervisor.remote(2)
for line in ray.get(supervisor.run.remote(["a", "poison", "b", "c", "poison", "d"])):
    print(line)
print(ray.get(supervisor.report.remote()))
