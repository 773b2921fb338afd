"""Names of any characters and length, wherever a user gives one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import celery_actors as ray
from celery_actors.local import NodeOptions, PrivateCluster
from celery_actors.util.state import list_actors

NAMES = {
    "long": "a" * 300,
    "very long": "a" * 5_000,
    "slash": "a/b",
    "upwards": f"../../../../tmp/escaped-{os.getpid()}",
    "dots": "..",
    "newline": "a\nb\r",
    "control": "\x1b[31mred\x07",
    "zero byte": "a\0b",
    "emoji": "😀" * 100,
    "right to left": "\u202etxt.exe",
    "percent": "%s%(x)s%h%n",
    "quotes": 'it\'s "q" \\',
    "blank": " ",
    "at": "a@b",
    "shell": "$(x)`y`;*?[]",
    "dash": "-rf",
}
SURROGATE = "\ud800x"


class Plain:
    """Has one method."""

    def one(self) -> int:
        print("said by it")
        return 1


def one() -> int:
    return 1


def class_of(name: str) -> Any:
    made = type("Made", (Plain,), {})
    if "\0" not in name:  # Python refuses it in a class's name
        made.__name__ = name
    made.__qualname__ = name
    return made


def by_class(name: str) -> Any:
    return ray.remote(class_of(name)).remote().one.remote()


def by_function(name: str) -> Any:
    def made() -> int:
        return 1

    made.__name__ = made.__qualname__ = name
    return ray.remote(made).remote()


def by_method(name: str) -> Any:
    made = type("Made", (), {name: lambda self: 1, "one": lambda self: 1})
    return getattr(ray.remote(made).remote(), name).remote()


def by_task_name(name: str) -> Any:
    return ray.remote(one).options(name=name).remote()


def by_actor_name(name: str) -> Any:
    kept.append(ray.remote(Plain).options(name=name).remote())
    return ray.get_actor(name).one.remote()


def by_namespace(name: str) -> Any:
    kept.append(ray.remote(Plain).options(name="x", namespace=name).remote())
    return ray.get_actor("x", namespace=name).one.remote()


def by_group(name: str) -> Any:
    actor = ray.remote(Plain).options(concurrency_groups={name: 2}).remote()
    return actor.one.options(concurrency_group=name).remote()


kept: list[Any] = []
WAYS: list[Callable[[str], Any]] = [
    by_class,
    by_function,
    by_method,
    by_task_name,
    by_actor_name,
    by_namespace,
    by_group,
]


@pytest.fixture(scope="module")
def session() -> Any:
    with PrivateCluster.start(NodeOptions(num_cpus=2)) as local:
        ray.init(local.address, log_to_driver=False)
        yield local.session_dir
        kept.clear()
        ray.shutdown()


@pytest.mark.parametrize("way", WAYS)
def test_any_name(session: Path, way: Callable[[str], Any]) -> None:
    refs = {kind: way(name) for kind, name in NAMES.items()}
    wrong = {}
    for kind, ref in refs.items():
        try:
            assert ray.get(ref, timeout=60) == 1
        except Exception as error:  # noqa: BLE001 - each is named in the end
            wrong[kind] = repr(error)
    assert not wrong
    kept.clear()
    assert not list(Path("/tmp").glob(f"escaped-{os.getpid()}*")), "nothing is written outside"
    assert list_actors(limit=1000) is not None


@pytest.mark.parametrize("way", [by_function, by_method])
def test_a_lone_surrogate(session: Path, way: Callable[[str], Any]) -> None:
    assert ray.get(way(SURROGATE), timeout=60) == 1


def test_logs_lie_in_their_jobs_folder(session: Path) -> None:
    for name in NAMES.values():
        ray.get(by_class(name), timeout=60)
    logs = session / "logs"
    outside = [p for p in logs.rglob("*.log") if p.parent.parent != logs]
    assert not outside


def test_namespaces_and_names_with_a_zero_byte_are_kept_apart(session: Path) -> None:
    first = ray.remote(Plain).options(name="b\0c", namespace="a").remote()
    second = ray.remote(Plain).options(name="c", namespace="a\0b").remote()
    assert ray.get([first.one.remote(), second.one.remote()]) == [1, 1]
    found = [(each["namespace"], each["name"]) for each in ray.util.list_named_actors(True)]
    assert ("a", "b\0c") in found
    assert ("a\0b", "c") in found


def test_a_method_whose_name_is_too_long_for_a_call(session: Path) -> None:
    made = type("Made", (Plain,), {"a" * 70_000: lambda self: 1})
    actor = ray.remote(made).remote()
    with pytest.raises(ValueError, match="70000 bytes and may have 65535"):
        getattr(actor, "a" * 70_000).remote()
    assert ray.get(actor.one.remote(), timeout=60) == 1
