"""Atari's Pong in an actor: the simulator's state lives there and each step changes it.

Then several environments step in parallel, each in a process of its own.
"""

import time

import ale_py
import gymnasium

import celery_actors as ray

ENVIRONMENTS = 4
STEPS = 200

ray.init()


@ray.remote
class GymEnvironment:
    def __init__(self, name):
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner
        gymnasium.register_envs(ale_py)
        self.env = gymnasium.make(name)
        self.env.reset()

    def step(self, action):
        return self.env.step(action)

    def reset(self):
        self.env.reset()

    def play(self, steps):
        """Take random actions; returns the rewards' sum."""
        total = 0.0
        for _ in range(steps):
            _, reward, terminated, truncated, _ = self.env.step(self.env.action_space.sample())
            total += reward
            if terminated or truncated:
                self.env.reset()
        return total


pong = GymEnvironment.remote("ALE/Pong-v5")
screen, reward, terminated, truncated, info = ray.get(pong.step.remote(0))
print(f"One step: a screen of {screen.shape}, reward {reward}, frame {info['frame_number']}.")
screen, reward, terminated, truncated, info = ray.get(pong.step.remote(0))
print(f"Another:  a screen of {screen.shape}, reward {reward}, frame {info['frame_number']}.")

environments = [GymEnvironment.remote("ALE/Pong-v5") for _ in range(ENVIRONMENTS)]
ray.get([environment.step.remote(0) for environment in environments])  # all are ready

started = time.perf_counter()
rewards = ray.get([environment.play.remote(STEPS) for environment in environments])
seconds = time.perf_counter() - started
steps = ENVIRONMENTS * STEPS
print(f"{ENVIRONMENTS} environments in parallel: {steps} steps, {steps / seconds:.0f} steps/s.")
print(f"Rewards: {rewards}, in total {sum(rewards)}.")
