"""A network in an actor with a GPU (a logical one where there is none)."""

import os

import numpy as np

import ray

ray.init(num_gpus=8)


def construct_network(inputs, outputs):
    weights = np.zeros((inputs, outputs))
    bias = np.zeros(outputs)

    def predict(x):
        scores = x @ weights + bias
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return scores / scores.sum(axis=1, keepdims=True)

    def train_step(x, y, rate=0.5):
        error = (predict(x) - np.eye(outputs)[y]) / len(x)
        np.subtract(weights, rate * (x.T @ error), out=weights)
        np.subtract(bias, rate * error.sum(axis=0), out=bias)

    return predict, train_step


@ray.remote(num_gpus=1)
class NeuralNetOnGPU:
    def __init__(self, data):
        self.x, self.y = data
        # Tells a library which GPU to use; this must come before its first use.
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join([str(i) for i in ray.get_gpu_ids()])
        self.predict, self.train_step = construct_network(self.x.shape[1], 3)

    def train(self, num_steps):
        for step in range(num_steps):
            batch = slice(step % 5 * 60, step % 5 * 60 + 60)
            self.train_step(self.x[batch], self.y[batch])

    def get_accuracy(self):
        return float((self.predict(self.x).argmax(axis=1) == self.y).mean())

    def get_gpus(self):
        return ray.get_gpu_ids(), os.environ["CUDA_VISIBLE_DEVICES"]


random = np.random.default_rng(0)
labels = random.integers(3, size=300)
points = np.array([[0.0, 3.0], [3.0, 0.0], [-3.0, -3.0]])[labels] + random.normal(size=(300, 2))

nn = NeuralNetOnGPU.remote((points, labels))
gpus, visible = ray.get(nn.get_gpus.remote())
print(len(gpus), "GPU,", "visible to libraries:", visible == str(gpus[0]))

# Run a few steps of training and print the accuracy.
nn.train.remote(100)
accuracy = ray.get(nn.get_accuracy.remote())
print(f"Accuracy is over 0.9: {accuracy > 0.9}.")

print("All eight together:", ray.cluster_resources()["GPU"] == 8)
