"""A simulator's state lives in an actor."""

import gymnasium as gym

import ray

ray.init()


@ray.remote
class GymEnvironment:
    def __init__(self, name):
        self.env = gym.make(name)
        self.env.reset(seed=7)

    def step(self, action):
        return self.env.step(action)

    def reset(self):
        self.env.reset(seed=7)


pole = GymEnvironment.remote("CartPole-v1")
observation, reward, terminated, truncated, _ = ray.get(pole.step.remote(0))
print(observation.shape, reward, terminated, truncated)

# The simulator goes on where it was: always to the left, until the pole has fallen.
steps = 1
while not terminated:
    observation, reward, terminated, truncated, _ = ray.get(pole.step.remote(0))
    steps += 1
print("fell after", steps, "steps")

pole.reset.remote()
outcomes = ray.get([pole.step.remote(0) for _ in range(steps)])
print("again after", 1 + [outcome[2] for outcome in outcomes].index(True), "steps")
