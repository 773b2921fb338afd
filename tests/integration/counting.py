"""The class behind the actors that Celery's clients call."""

from __future__ import annotations


class Counting:
    def __init__(self) -> None:
        self.value = 0

    def increment(self, by: int = 1) -> int:
        self.value += by
        return self.value

    def fail(self) -> None:
        raise ValueError("no such thing", 5)
