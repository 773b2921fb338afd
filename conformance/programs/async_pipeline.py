"""Stages of asyncio actors: many items are on their way at the same time."""

import asyncio

import ray

ray.init()


@ray.remote
class Stage:
    def __init__(self, name, change, after=None):
        self.name = name
        self.change = change
        self.after = after
        self.inside = 0
        self.most = 0

    async def process(self, item):
        self.inside += 1
        self.most = max(self.most, self.inside)
        await asyncio.sleep(0.1)
        result = self.change(item)
        if self.after is not None:
            result = await self.after.process.remote(result)
        self.inside -= 1
        return result

    async def busiest(self):
        return self.name, self.most


write = Stage.remote("write", lambda item: f"<{item}>")
square = Stage.remote("square", lambda item: item * item, write)
parse = Stage.remote("parse", int, square)


async def main():
    texts = [str(x) for x in range(12)]
    print(await asyncio.gather(*[parse.process.remote(text) for text in texts]))
    for stage in (parse, square, write):
        name, most = await stage.busiest.remote()
        print(f"{name}: several at a time: {most > 1}")


asyncio.run(main())
