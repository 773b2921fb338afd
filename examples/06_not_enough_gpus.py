"""More GPUs than any node has: the error says so at once, instead of a wait without end."""

import celery_actors as ray

ray.init(num_gpus=2)


@ray.remote(num_gpus=1)
class Net:
    def gpus(self):
        return ray.get_gpu_ids()


try:
    Net.options(num_gpus=3).remote()
except ray.exceptions.InsufficientResources as error:
    print(f"{type(error).__name__}: {error}")

# What fits runs; each actor has a GPU of its own.
nets = [Net.remote() for _ in range(2)]
print(sorted(ray.get([net.gpus.remote() for net in nets])))  # [[0], [1]]
