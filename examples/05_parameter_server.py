"""An asynchronous parameter server: workers train one model without waiting for each other.

The server is an actor that holds the weights.  Each worker pulls them, computes a
gradient on a batch of its own and pushes it back, at its own pace; the weights may have
moved on meanwhile, and that does no harm.
"""

import numpy as np
from sklearn.datasets import load_digits

import celery_actors as ray

WORKERS = 4
PORTIONS = 32  # of work, given to whichever worker is free
BATCHES = 25  # in a portion

ray.init(num_cpus=WORKERS)


@ray.remote
class ParameterServer:
    def __init__(self, shape):
        self.weights = np.zeros(shape)
        self.updates = 0

    def pull(self):
        return self.weights

    def push(self, gradient):
        self.weights = self.weights - 0.5 * gradient
        self.updates += 1

    def count(self):
        return self.updates


def probabilities(weights, images):
    scores = images @ weights
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@ray.remote
def train(server, images, labels, seed):
    random = np.random.default_rng(seed)
    for _ in range(BATCHES):
        chosen = random.integers(len(images), size=100)
        weights = ray.get(server.pull.remote())
        error = probabilities(weights, images[chosen]) - np.eye(10)[labels[chosen]]
        server.push.remote(images[chosen].T @ error / len(chosen))


def report(server, images, labels):
    weights, updates = ray.get([server.pull.remote(), server.count.remote()])
    accuracy = (probabilities(weights, images).argmax(axis=1) == labels).mean()
    print(f"After {updates:3} updates: accuracy {accuracy:.3f}")


digits = load_digits()
images, labels = digits.data / 16, digits.target
train_images, train_labels = ray.put(images[:1400]), ray.put(labels[:1400])  # stored once
test_images, test_labels = images[1400:], labels[1400:]

server = ParameterServer.remote((64, 10))
report(server, test_images, test_labels)
running = [train.remote(server, train_images, train_labels, portion) for portion in range(WORKERS)]
for portion in range(WORKERS, PORTIONS):
    _finished, running = ray.wait(running)
    running.append(train.remote(server, train_images, train_labels, portion))
    if portion % WORKERS == 0:
        report(server, test_images, test_labels)
ray.get(running)
report(server, test_images, test_labels)
