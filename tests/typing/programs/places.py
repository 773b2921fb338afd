# checkers: mypy
"""``get`` of a list that is written out: each place of what it returns has its own type."""

from typing_extensions import assert_type

import celery_actors as ray


@ray.remote
def number() -> int:
    return 1


@ray.remote
def text() -> str:
    return "a"


first, second = ray.get([number.remote(), text.remote()])
assert_type(first, int)
assert_type(second, str)
values = ray.get([number.remote(), text.remote()])
assert_type(values[1], str)
values.append("a list it is")
alike = ray.get([number.remote(), number.remote()])
assert_type(alike, list[int])
