"""What user code raises, as those see it who get the result."""

from __future__ import annotations

import inspect
import threading

import pytest
from waiting import wait_for_state

import celery_actors as ray
from celery_actors.exceptions import (
    ActorDiedError,
    ActorError,
    RayError,
    RayTaskError,
    TaskError,
)

pytestmark = pytest.mark.usefixtures("cluster")


class OutOfStock(Exception):
    def __init__(self, item: str, wanted: int) -> None:
        super().__init__(item, wanted)
        self.item = item
        self.wanted = wanted


@ray.remote
class Shop:
    def __init__(self, sold: int = 0) -> None:
        self.sold = sold

    def buy(self, item: str, count: int) -> int:
        if count > 3:
            raise OutOfStock(item, count)  # the line that raises
        self.sold += count
        return self.sold

    def divide(self, by: int) -> float:
        return 1 / by

    def leave(self) -> None:
        raise SystemExit(0)


def test_what_get_raises_is_the_users_exception_too() -> None:
    shop = Shop.remote()
    assert ray.get(shop.buy.remote("nuts", 2)) == 2
    with pytest.raises(OutOfStock) as caught:
        ray.get(shop.buy.remote("nuts", 9))
    error = caught.value
    assert isinstance(error, TaskError)
    assert isinstance(error, RayTaskError)
    assert isinstance(error, RayError)
    assert (error.item, error.wanted) == ("nuts", 9)
    assert type(error.cause) is OutOfStock
    assert "raise OutOfStock(item, count)  # the line that raises" in str(error)
    assert error.function_name == "Shop.buy"
    assert "celery_actors/worker" not in str(error), "our own frames are no help to the user"
    assert ray.get(shop.buy.remote("nuts", 1)) == 3, "the actor lives on"


def test_a_builtin_exception_and_its_line() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        ray.get(Shop.remote().divide.remote(0))
    assert "return 1 / by" in str(caught.value)


def test_an_exception_class_of_this_module_is_caught() -> None:
    shop = Shop.remote()
    with pytest.raises(OutOfStock) as caught:
        ray.get(shop.buy.remote("bolts", 4))
    cause = caught.value.cause  # type: ignore[attr-defined]
    assert inspect.getmodule(type(cause)) is inspect.getmodule(OutOfStock)


def test_exceptions_that_do_not_travel_leave_their_traceback() -> None:
    @ray.remote
    class Awkward:
        def unpicklable(self) -> None:
            raise ValueError(threading.Lock())

        def other_signature(self) -> None:
            class Two(Exception):
                def __init__(self, one: int, two: int) -> None:
                    super().__init__(f"{one} and {two}")

            raise Two(1, 2)

    actor = Awkward.remote()
    with pytest.raises(TaskError, match="raise ValueError") as caught:
        ray.get(actor.unpicklable.remote())
    assert type(caught.value.cause) is RayError
    assert "can't be pickled" in str(caught.value.cause)
    with pytest.raises(TaskError, match="1 and 2"):
        ray.get(actor.other_signature.remote())
    assert ray.get(actor.__ray_ready__.remote())


def test_the_error_of_a_failed_argument_names_the_call_that_waited_for_it() -> None:
    @ray.remote
    def pay(price: float) -> float:
        return price

    shop = Shop.remote()
    with pytest.raises(ZeroDivisionError) as caught:
        ray.get(pay.remote(shop.divide.remote(0)))
    text = str(caught.value)
    assert ".pay raised:\n  At least one of the arguments" in text
    assert "Shop.divide raised:" in text
    assert "return 1 / by" in text
    assert "celery_actors/store" not in text, "our own frames are no help to the user"


def test_sys_exit_in_a_method_ends_the_actor() -> None:
    shop = Shop.remote()
    with pytest.raises(ActorError, match=r"sys\.exit\(\) in Shop\.leave"):
        ray.get(shop.leave.remote())
    wait_for_state(shop, "DEAD")
    with pytest.raises(ActorDiedError, match=r"sys\.exit"):
        ray.get(shop.buy.remote("nuts", 1))


def test_a_constructor_whose_ref_failed_makes_a_dead_actor() -> None:
    @ray.remote
    def fails() -> int:
        raise OutOfStock("bolts", 1)

    shop = Shop.remote(fails.remote())
    with pytest.raises(ActorDiedError) as caught:
        ray.get(shop.buy.remote("nuts", 1))
    assert isinstance(caught.value.__cause__, OutOfStock)
    assert "Shop.__init__ raised:" in str(caught.value.__cause__)
    assert "At least one of the arguments" in str(caught.value)
