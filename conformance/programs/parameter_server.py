"""Workers compute gradients on their part of the data; an actor keeps the parameters."""

import numpy as np

import ray

ray.init()

TRUE = np.array([2.0, -3.0, 0.5])


@ray.remote
class ParameterServer:
    def __init__(self, size, rate):
        self.parameters = np.zeros(size)
        self.rate = rate
        self.updates = 0

    def apply(self, *gradients):
        self.parameters = self.parameters - self.rate * np.mean(gradients, axis=0)
        self.updates += 1
        return self.parameters

    def read(self):
        return self.parameters, self.updates


@ray.remote
class Worker:
    def __init__(self, seed):
        random = np.random.default_rng(seed)
        self.x = random.normal(size=(200, 3))
        self.y = self.x @ TRUE

    def gradient(self, parameters):
        return 2 * self.x.T @ (self.x @ parameters - self.y) / len(self.y)


server = ParameterServer.remote(3, 0.2)
workers = [Worker.remote(seed) for seed in range(3)]

# In step: the gradients' refs go straight to the server, its result straight to the workers.
parameters = ray.put(np.zeros(3))
for _ in range(30):
    gradients = [worker.gradient.remote(parameters) for worker in workers]
    parameters = server.apply.remote(*gradients)
print("in step:", np.round(ray.get(parameters), 2).tolist())

# Each at its own pace.
server = ParameterServer.remote(3, 0.1)
start, _ = ray.get(server.read.remote())
running = {worker.gradient.remote(start): worker for worker in workers}
for _ in range(90):
    (ready,), _ = ray.wait(list(running))
    worker = running.pop(ready)
    running[worker.gradient.remote(server.apply.remote(ready))] = worker
final, updates = ray.get(server.read.remote())
print("apart:", np.round(final, 1).tolist(), "after", updates, "updates")
