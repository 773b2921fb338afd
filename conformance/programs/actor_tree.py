"""A tree of actors: each node makes its children, and the sum comes up from the leaves."""

import ray

ray.init()


@ray.remote
class Node:
    def __init__(self, path, depth):
        self.path = path
        self.children = [Node.remote(f"{path}.{i}", depth - 1) for i in range(2)] if depth else []

    def total(self):
        if not self.children:
            return len(self.path)
        return sum(ray.get([child.total.remote() for child in self.children]))

    def paths(self):
        below = ray.get([child.paths.remote() for child in self.children])
        return [self.path] + [path for paths in below for path in paths]

    def child(self, index):
        return self.children[index]


root = Node.remote("r", 2)
print("total:", ray.get(root.total.remote()))
print("\n".join(ray.get(root.paths.remote())))

# A handle to an inner node is a value like others.
inner = ray.get(root.child.remote(1))
print("below the second child:", ray.get(inner.paths.remote()))
