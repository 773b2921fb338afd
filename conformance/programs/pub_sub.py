"""Publishers and subscribers, with a named actor as the topic's broker."""

import asyncio

import ray

ray.init()


@ray.remote
class Topic:
    def __init__(self):
        self.queues = {}

    async def subscribe(self, who):
        self.queues[who] = asyncio.Queue()

    async def publish(self, message):
        for queue in self.queues.values():
            await queue.put(message)
        return len(self.queues)

    async def next(self, who):
        return await self.queues[who].get()


@ray.remote
class Subscriber:
    def __init__(self, name, topic):
        self.name = name
        self.topic = topic
        ray.get(topic.subscribe.remote(name))

    def read(self, count):
        return [ray.get(self.topic.next.remote(self.name)) for _ in range(count)]


@ray.remote
def publish(who, messages):
    topic = ray.get_actor("news")
    for message in messages:
        ray.get(topic.publish.remote(f"{who}: {message}"))


topic = Topic.options(name="news").remote()
subscribers = [Subscriber.remote(name, topic) for name in ("ann", "bob")]
ray.get([subscriber.__ray_ready__.remote() for subscriber in subscribers])

ray.get(publish.remote("desk", ["one", "two", "three"]))
for lines in ray.get([subscriber.read.remote(3) for subscriber in subscribers]):
    print(lines)

# Readers may wait before anything is there.
waiting = [subscriber.read.remote(2) for subscriber in subscribers]
ray.get([publish.remote("left", ["x"]), publish.remote("right", ["y"])])
for lines in ray.get(waiting):
    print(sorted(lines))
