"""A pool of actors maps a function over values."""

import ray
from ray.util import ActorPool

ray.init()


@ray.remote
class Primes:
    """Counts primes; keeps what it has found for the next call."""

    def __init__(self):
        self.found = [2]

    def below(self, n):
        for x in range(self.found[-1] + 1, n):
            if all(x % p for p in self.found):
                self.found.append(x)
        return n, sum(p < n for p in self.found)


pool = ActorPool([Primes.remote() for _ in range(2)])

for n, count in pool.map(lambda actor, n: actor.below.remote(n), [10, 100, 1000, 50]):
    print(f"{count} primes below {n}")

print(sorted(pool.map_unordered(lambda actor, n: actor.below.remote(n), range(10, 60, 10))))

pool.submit(lambda actor, n: actor.below.remote(n), 200)
pool.submit(lambda actor, n: actor.below.remote(n), 300)
while pool.has_next():
    print(pool.get_next())
