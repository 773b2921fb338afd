"""Rollout workers with a simulator each; a learner improves a policy by what they report."""

import gymnasium as gym
import numpy as np

import ray

ray.init()


@ray.remote
class RolloutWorker:
    def __init__(self, name, seed):
        self.env = gym.make(name)
        self.seed = seed

    def rollout(self, policy):
        """Return the reward of one episode under a linear policy."""
        observation, _ = self.env.reset(seed=self.seed)
        total = 0.0
        while True:
            action = int(observation @ policy > 0)
            observation, reward, terminated, truncated, _ = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                return total


@ray.remote
class Learner:
    """Random search: keeps the best policy so far."""

    def __init__(self, size):
        self.random = np.random.default_rng(3)
        self.best = np.zeros(size)
        self.reward = 0.0

    def propose(self):
        return self.best + self.random.normal(size=self.best.shape)

    def report(self, policy, *rewards):
        if np.mean(rewards) > self.reward:
            self.best, self.reward = policy, float(np.mean(rewards))
        return self.reward


workers = [RolloutWorker.remote("CartPole-v1", seed) for seed in range(3)]
learner = Learner.remote(4)

history = []
for _ in range(12):
    policy = learner.propose.remote()
    rewards = [worker.rollout.remote(policy) for worker in workers]
    history.append(learner.report.remote(policy, *rewards))

rewards = ray.get(history)
print("rounds:", len(rewards))
print("never worse:", all(a <= b for a, b in zip(rewards, rewards[1:])))
print("better than the first:", rewards[-1] > rewards[0])
