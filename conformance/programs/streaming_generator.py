"""A reader, a transformer and a sink, connected by streams."""

import ray

ray.init()


@ray.remote
def read_blocks(blocks, size):
    for block in range(blocks):
        yield [block * size + i for i in range(size)]


@ray.remote
class Transformer:
    def __init__(self):
        self.blocks = 0

    def squares(self, count):
        for ref in read_blocks.remote(count, 4):
            self.blocks += 1
            yield [x * x for x in ray.get(ref)]

    def seen(self):
        return self.blocks


@ray.remote
def total(block):
    return sum(block)


transformer = Transformer.remote()
totals = []
for ref in transformer.squares.remote(5):
    totals.append(total.remote(ref))  # the block goes from the stream to the task
print(ray.get(totals))
print("all:", sum(ray.get(totals)), "of", ray.get(transformer.seen.remote()), "blocks")


@ray.remote
class Words:
    async def stream(self, text):
        for word in text.split():
            yield word


print(" ".join(ray.get(ref) for ref in Words.remote().stream.remote("one word after another")))
