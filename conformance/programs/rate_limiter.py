"""A token bucket in an asyncio actor: callers wait for their turn."""

import asyncio
import time

import ray

ray.init()


@ray.remote
class RateLimiter:
    """Lets `rate` callers through in a second, `burst` of them at once."""

    def __init__(self, rate, burst):
        self.rate = rate
        self.burst = burst
        self.tokens = burst
        self.last = time.monotonic()
        self.lock = asyncio.Lock()

    async def acquire(self):
        async with self.lock:
            while True:
                now = time.monotonic()
                self.tokens = min(self.burst, self.tokens + (now - self.last) * self.rate)
                self.last = now
                if self.tokens >= 1:
                    self.tokens -= 1
                    return now
                await asyncio.sleep((1 - self.tokens) / self.rate)


@ray.remote(num_cpus=0.5)
def client(limiter, calls):
    return [ray.get(limiter.acquire.remote()) for _ in range(calls)]


limiter = RateLimiter.remote(rate=20, burst=3)
times = sorted(t for part in ray.get([client.remote(limiter, 5) for _ in range(3)]) for t in part)
print("let through:", len(times))

gaps = [later - earlier for earlier, later in zip(times, times[1:])]
span = times[-1] - times[0]
print("no faster than the rate:", span >= (len(times) - 3) / 20 * 0.95)
print("as fast as the bucket allows at first:", min(gaps) < 0.04)
