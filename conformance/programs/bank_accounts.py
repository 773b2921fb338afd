"""Accounts as actors: transfers by tasks at the same time lose no money."""

import ray

ray.init()


class NotEnoughMoney(Exception):
    pass


@ray.remote
class Account:
    def __init__(self, owner, balance):
        self.owner = owner
        self.balance = balance

    def deposit(self, amount):
        self.balance += amount
        return self.balance

    def withdraw(self, amount):
        if amount > self.balance:
            raise NotEnoughMoney(f"{self.owner} has {self.balance}")
        self.balance -= amount
        return self.balance

    def read(self):
        return self.balance


@ray.remote(num_cpus=0.5)
def transfer(source, target, amount):
    try:
        ray.get(source.withdraw.remote(amount))
    except NotEnoughMoney:
        return 0
    ray.get(target.deposit.remote(amount))
    return amount


ann, bob = Account.remote("Ann", 100), Account.remote("Bob", 50)
moved = ray.get([transfer.remote(ann, bob, 30) for _ in range(5)])
print("moved:", sorted(moved, reverse=True))
print("balances:", ray.get([ann.read.remote(), bob.read.remote()]))

try:
    ray.get(ann.withdraw.remote(1000))
except NotEnoughMoney as error:
    print("refused:", "Ann has 10" in str(error))
