"""Bad input gets an error that says what to do, and nothing else is lost."""

from __future__ import annotations

import ctypes
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fixture_types import RunScript, StartNode
from waiting import wait_for_state, wait_until

import celery_actors as ray
from celery_actors.exceptions import (
    ActorDiedError,
    ConfigurationError,
    RayActorError,
    SerializationError,
    TaskError,
)
from celery_actors.local import PrivateCluster
from celery_actors.local.ports import free_ports
from celery_actors.session import SessionInfo


@pytest.fixture(scope="module", autouse=True)
def node(driver: SessionInfo, start_node: StartNode) -> Any:
    started = start_node("one", num_cpus=4)
    wait_until(ray.nodes, "the node")
    return started


@ray.remote
class Account:
    def __init__(self, owner: str, *, balance: int = 0) -> None:
        if balance < 0:
            raise ValueError(f"{owner} has no credit")
        self.balance = balance

    def add(self, amount: int, times: int = 1) -> int:
        self.balance += amount * times
        return self.balance

    def echo(self, *values: Any) -> Any:
        return values

    def unpicklable(self) -> Any:
        return {"locks": [threading.Lock()]}

    def exit(self, status: int) -> None:
        os._exit(status)

    def crash(self) -> None:
        ctypes.string_at(0)


@ray.remote
def double(value: int) -> int:
    return 2 * value


# -- wrong arguments --------------------------------------------------------------------------


def test_wrong_arguments_of_a_method() -> None:
    account = Account.remote("x")
    for args, kwargs in (((), {}), ((1, 2, 3), {}), ((1,), {"time": 2}), ((1,), {"amount": 2})):
        with pytest.raises(TypeError, match=r"Account\.add\(amount, times=…\)"):
            account.add.remote(*args, **kwargs)
    assert ray.get(account.add.remote(1)) == 1, "none of them ran"


def test_wrong_arguments_of_a_constructor_and_a_function() -> None:
    with pytest.raises(TypeError, match=r"Account\(owner, \*, balance=…\): missing.*'owner'"):
        Account.remote()
    with pytest.raises(TypeError, match=r"double\(value\)"):
        double.remote(1, 2)
    handle_elsewhere = ray.get(ray.put([Account.remote("x")]))[0]
    with pytest.raises(TypeError, match=r"Account\.add"):
        handle_elsewhere.add.remote()


def test_calls_without_remote_name_it() -> None:
    account = Account.remote("x")
    for call in (lambda: account.add(1), lambda: Account("x"), lambda: double(1)):
        with pytest.raises(TypeError, match=r"\.remote\(…\)"):
            call()
    with pytest.raises(AttributeError, match=r"'ad'; it has add,"):
        account.ad.remote(1)


def test_unknown_options_name_the_near_ones() -> None:
    with pytest.raises(
        TypeError, match="'num_gpu' is no option of an actor; did you mean num_gpus"
    ):
        ray.remote(num_gpu=1)(Account.__wrapped__)
    with pytest.raises(TypeError, match="'num_cpu' is no option of a task; did you mean num_cpus"):
        double.options(num_cpu=1)
    with pytest.raises(TypeError, match="'num_return' is no option of a method; did you mean"):
        Account.remote("x").add.options(num_return=1)
    with pytest.raises(TypeError, match="did you mean num_returns"):
        ray.method(numreturns=1)
    with pytest.raises(TypeError, match="'num_gpu'"):
        ray.init("local", num_gpu=1)  # type: ignore[call-arg]


# -- what can't be pickled ------------------------------------------------------------------


def test_unpicklable_arguments_are_named_with_their_place() -> None:
    account = Account.remote("x")
    with pytest.raises(SerializationError) as caught:
        account.echo.remote(1, {"deep": [2, threading.Lock()]})
    message = str(caught.value)
    assert "the arguments of Account.echo" in message
    assert "['deep'][1]" in message
    assert "_thread.lock" in message
    with pytest.raises(SerializationError, match=r"put\(\).*_thread\.lock"):
        ray.put(threading.Lock())
    with pytest.raises(SerializationError, match="Account's constructor"):
        Account.remote(threading.Lock())
    assert ray.get(account.add.remote(1)) == 1


def test_an_unpicklable_result_is_the_calls_error() -> None:
    account = Account.remote("x")
    with pytest.raises(SerializationError) as caught:
        ray.get(account.unpicklable.remote())
    assert "the result of Account.unpicklable" in str(caught.value)
    assert "['locks'][0]" in str(caught.value)
    assert ray.get(account.add.remote(1)) == 1


def test_a_value_that_does_not_unpickle_fails_its_call_only() -> None:
    class Poison:
        def __reduce__(self) -> Any:
            return int, ("not a number",)

    account = Account.remote("x")
    with pytest.raises(ValueError, match="invalid literal"):
        ray.get(account.echo.remote(Poison()))
    with pytest.raises(ValueError, match="invalid literal"):
        ray.get(ray.put(Poison()))
    assert ray.get(account.add.remote(1)) == 1


# -- actors that don't come up, or go down --------------------------------------------------


def test_a_constructor_that_raises_is_the_cause_of_every_call() -> None:
    account = Account.remote("Bob", balance=-1)
    early = account.add.remote(1)
    for _ in range(2):
        with pytest.raises(ActorDiedError, match="constructor raised ValueError") as caught:
            ray.get(early, timeout=60)
        assert isinstance(caught.value, RayActorError)
        cause = caught.value.__cause__
        assert isinstance(cause, ValueError)
        assert isinstance(cause, TaskError)
        assert 'raise ValueError(f"{owner} has no credit")' in str(cause)
        early = account.add.remote(2)


def test_a_class_whose_definition_raises_when_it_is_unpickled() -> None:
    class Meta(type):
        def __init__(cls, name: str, bases: Any, namespace: Any) -> None:
            if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
                raise RuntimeError("not on this machine")
            super().__init__(name, bases, namespace)

    class Picky(metaclass=Meta):
        def method(self) -> None: ...

    picky = ray.remote(Picky).remote()
    with pytest.raises(ActorDiedError, match="not on this machine"):
        ray.get(picky.method.remote(), timeout=60)


def test_a_process_that_exits_or_crashes_is_named() -> None:
    for name, args, says in (
        ("exit", (9,), "exited with status 9"),
        ("exit", (0,), "exited with status 0"),
        ("crash", (), "SIGSEGV"),
    ):
        account = Account.remote("x")
        assert ray.get(account.add.remote(5), timeout=60) == 5
        ref, after = getattr(account, name).remote(*args), account.add.remote(1)
        for failed in (ref, after):
            with pytest.raises(ActorDiedError, match=says):
                ray.get(failed, timeout=60)
        assert says in wait_for_state(account, "DEAD").cause


def test_a_constructor_that_exits() -> None:
    @ray.remote
    class Exits:
        def __init__(self) -> None:
            os._exit(4)

        def method(self) -> None: ...

    with pytest.raises(ActorDiedError, match="exited with status 4"):
        ray.get(Exits.remote().method.remote(), timeout=60)


# -- brokers ------------------------------------------------------------------------------------

CONNECT = """
import sys, time, pathlib
import celery_actors as ray
from celery_actors.exceptions import ConnectionFailed
began = time.monotonic()
try:
    ray.init(sys.argv[1], result_backend=sys.argv[2])
except ConnectionFailed as error:
    print(error)
    print(time.monotonic() - began < 28)  # it gives up after 4 s, and calls only after 30
"""


def test_brokers_that_are_away_or_refuse(brokers: PrivateCluster, run_script: RunScript) -> None:
    broker, backend = brokers.address.broker_url, brokers.address.result_backend
    (nobody,) = free_ports(1)
    cases = {
        (f"amqp://u:secret@127.0.0.1:{nobody}//", backend): (
            "RabbitMQ",
            "check that RabbitMQ runs",
        ),
        (broker.replace("://actors:", "://actors:wrong"), backend): (
            "RabbitMQ",
            "refused the user or password",
        ),
        (broker, f"redis://:secret@127.0.0.1:{nobody}/0"): ("Redis", "check that it runs"),
        (broker, backend.replace("redis://:", "redis://:wrong")): ("Redis", "refused the password"),
    }
    for (broker_url, backend_url), (server, hint) in cases.items():
        message, in_time = run_script(CONNECT, broker_url, backend_url).stdout.splitlines()
        assert server in message
        assert hint in message
        assert "127.0.0.1" in message
        assert "secret" not in message
        assert "wrong" not in message
        assert in_time == "True"


def test_a_key_that_is_missing_or_open_to_others(
    brokers: PrivateCluster, run_script: RunScript, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    program = "import celery_actors as ray\nray.init()"
    for prepare, says in (
        (lambda: None, "cannot read the cluster key"),
        (lambda: key.write_text("ab" * 32), "can be read by others"),
        (lambda: (key.chmod(0o600), key.write_text("short")), "shorter than 16 bytes"),
    ):
        prepare()
        done = run_script(program, env={"CELERY_ACTORS_KEY_FILE": str(key)}, status=1)
        assert "ConfigurationError" in done.stderr
        assert says in done.stderr


def test_a_second_init_and_contradicting_options(driver: SessionInfo) -> None:
    with pytest.raises(ray.exceptions.ActorsError, match="initialised already"):
        ray.init()
    assert ray.init(ignore_reinit_error=True) == driver


def test_resources_of_a_cluster_that_exists_cannot_be_declared(run_script: RunScript) -> None:
    done = run_script("import celery_actors as ray\nray.init(num_gpus=2)", status=1)
    assert ConfigurationError.__name__ in done.stderr
    assert "describe a private cluster's node" in done.stderr


def test_the_wrong_key_runs_nothing(
    brokers: PrivateCluster, run_script: RunScript, tmp_path: Path, node: Any
) -> None:
    key = tmp_path / "key"
    key.touch(0o600)
    key.write_text("ef" * 32)
    program = (
        "import sys, pathlib\n"
        "import celery_actors as ray\n"
        "ray.init()\n"
        "@ray.remote\n"
        "class A:\n"
        "    def __init__(self): pathlib.Path(sys.argv[1]).touch()\n"
        "    def f(self): return 1\n"
        "try:\n"
        "    ray.get(A.remote().f.remote(), timeout=60)\n"
        "except ray.exceptions.ActorsError as error:\n"
        "    print(type(error).__name__)\n"
    )
    ran = tmp_path / "ran"
    done = run_script(program, str(ran), env={"CELERY_ACTORS_KEY_FILE": str(key)})
    assert done.stdout.split() == ["ActorDiedError"]
    assert not ran.exists()


def test_settings_are_not_shown_with_their_key(brokers: PrivateCluster) -> None:
    from celery_actors.client.current import require_process

    settings = require_process().settings
    assert settings.key.decode() not in repr(replace(settings))
