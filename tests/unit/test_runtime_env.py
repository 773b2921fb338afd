"""What a runtime_env may say, how files are packaged, and how packages are unpacked."""

from __future__ import annotations

import json
import os
import pickle
import sys
import threading
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from celery_actors.client import packing
from celery_actors.client.environments import path_of_module
from celery_actors.client.packing import Packed, pack_archive, pack_directory, pack_file
from celery_actors.exceptions import RuntimeEnvSetupError, TamperedError
from celery_actors.options import ActorOptions, TaskOptions
from celery_actors.protocol.environment import Environment, package_digest, package_uri
from celery_actors.protocol.packages import decode_chunk, encode_chunk
from celery_actors.protocol.signing import Signer
from celery_actors.runtime_env import RuntimeEnv, RuntimeEnvConfig
from celery_actors.worker.environment_cache import EnvironmentCache

# -- what may be said ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ActorOptions, TaskOptions])
@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"env_var": {}}, ValueError, "did you mean env_vars"),
        ({"zzz": 1}, ValueError, "known: env_vars, working_dir"),
        ({"pip": ["x"]}, ValueError, "py_executable"),
        ({"uv": ["x"]}, ValueError, "py_executable"),
        ({"conda": "env"}, ValueError, "py_executable"),
        ({"image_uri": "a/b"}, ValueError, "node worker"),
        ({"container": {}}, ValueError, "node worker"),
        ({"worker_process_setup_hook": print}, ValueError, "constructor"),
        ({"env_vars": ["A"]}, TypeError, "env_vars"),
        ({"env_vars": {"A": 1}}, TypeError, "'A': 1"),
        ({"env_vars": {1: "A"}}, TypeError, "1: 'A'"),
        ({"env_vars": {"A=B": "1"}}, ValueError, "A=B"),
        ({"env_vars": {"": "1"}}, ValueError, "''"),
        ({"working_dir": 3}, TypeError, "working_dir"),
        ({"working_dir": ""}, ValueError, "empty"),
        ({"working_dir": "s3://bucket/x.zip"}, ValueError, "URI of s3"),
        ({"py_modules": "module"}, TypeError, "list"),
        ({"py_modules": [3]}, TypeError, "py_modules"),
        ({"excludes": "x"}, TypeError, "excludes"),
        ({"py_executable": ["python"]}, TypeError, "py_executable"),
        ({"py_executable": ""}, ValueError, "interpreter"),
        ({"py_executable": "'python"}, ValueError, "no command"),
        ({"config": 3}, TypeError, "config"),
        ({"config": {"timeout": 3}}, ValueError, "setup_timeout_seconds"),
        ({"config": {"setup_timeout_seconds": 0}}, ValueError, "more than 0"),
        ({"config": {"setup_timeout_seconds": "1"}}, TypeError, "number"),
        ({"config": {"eager_install": 1}}, TypeError, "boolean"),
        (3, TypeError, "dictionary"),
        ({3: 4}, TypeError, "strings"),
    ],
)
def test_what_makes_no_sense(kind: Any, given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        kind(runtime_env=given)


def test_it_is_a_dictionary_that_checks_what_is_put_in() -> None:
    env = RuntimeEnv(
        env_vars={"A": "1"}, working_dir=Path("/x"), config={"setup_timeout_seconds": 5}
    )
    assert env == {
        "env_vars": {"A": "1"},
        "working_dir": "/x",
        "config": RuntimeEnvConfig(setup_timeout_seconds=5),
    }
    assert RuntimeEnv() == {} == RuntimeEnv(working_dir=None)
    assert RuntimeEnv.deserialize(env.serialize()) == env
    assert json.loads(env.serialize())["env_vars"] == {"A": "1"}
    assert env.has_working_dir()
    assert (env.working_dir(), env.py_modules(), env.env_vars()) == ("/x", [], {"A": "1"})
    env.set("py_executable", "python -u")
    assert env.py_executable() == "python -u"
    with pytest.raises(ValueError, match="pip"):
        env["pip"] = ["x"]
    with pytest.raises(TypeError, match="excludes"):
        env.update(excludes="x")
    assert type(env.to_dict()) is dict
    assert ActorOptions(runtime_env=env).runtime_env is env
    copy = pickle.loads(pickle.dumps(env))
    assert (type(copy), copy) == (RuntimeEnv, env)
    assert RuntimeEnvConfig(setup_timeout_seconds=-1)["setup_timeout_seconds"] == -1


def test_what_travels_can_be_shown_and_given_again() -> None:
    digest = "0123456789abcdef" * 2
    environment = Environment((("A", "1"),), digest, (digest,), "python -u", 3.0)
    shown = environment.as_runtime_env()
    assert shown == {
        "env_vars": {"A": "1"},
        "working_dir": f"package://{digest}.zip",
        "py_modules": [f"package://{digest}.zip"],
        "py_executable": "python -u",
        "config": {"setup_timeout_seconds": 3.0},
    }
    assert RuntimeEnv.of(shown)["working_dir"] == shown["working_dir"]
    assert package_digest(package_uri(digest)) == digest
    assert package_digest("package://../../etc.zip") is None
    assert Environment().as_runtime_env() == {}
    assert not Environment()
    assert environment


# -- packaging -----------------------------------------------------------------------------


def names(packed: Packed) -> list[str]:
    with packed.file, zipfile.ZipFile(packed.file) as archive:
        return archive.namelist()


def digest_of(packed: Packed) -> str:
    packed.file.close()
    return packed.digest


def put(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_digest_is_that_of_the_contents(tmp_path: Path) -> None:
    files = {"b.py": "2", "a.py": "1", "sub/c.txt": "3"}
    one = put(tmp_path / "one", files)
    two = put(tmp_path / "two", dict(reversed(files.items())))
    os.utime(two / "a.py", (0, 0))
    (two / "a.py").chmod(0o600)
    first = digest_of(pack_directory(one, []))
    assert digest_of(pack_directory(two, [])) == first
    assert digest_of(pack_directory(one, [], parent="one")) != first
    (two / "a.py").chmod(0o700)
    assert digest_of(pack_directory(two, [])) != first
    (two / "a.py").chmod(0o600)
    (two / "sub/c.txt").write_text("4")
    assert digest_of(pack_directory(two, [])) != first


def test_what_is_left_out(tmp_path: Path) -> None:
    root = put(
        tmp_path / "root",
        {
            ".gitignore": "*.log\n/top.txt\nbuild/\n!kept.log\n",
            ".git/config": "",
            ".venv/x": "",
            "__pycache__/a.pyc": "",
            "a.py": "",
            "a.log": "",
            "kept.log": "",
            "top.txt": "",
            "big.bin": "",
            "build/out": "",
            "sub/.gitignore": "!b.log\n*.tmp\n",
            "sub/b.log": "",
            "sub/c.tmp": "",
            "sub/top.txt": "",
            "sub/__pycache__/a.pyc": "",
            "other/c.tmp": "",
            "data/x": "",
            "data/deep/y": "",
            ".rayignore": "other/\n",
        },
    )
    assert names(pack_directory(root, ["big.bin", "/data/deep"])) == [
        ".gitignore",
        ".rayignore",
        "a.py",
        "data/x",
        "kept.log",
        "sub/.gitignore",
        "sub/b.log",
        "sub/top.txt",
    ]


def test_gitignore_can_be_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = put(tmp_path / "root", {".gitignore": "a.log", "a.log": ""})
    monkeypatch.setenv("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "1")
    assert names(pack_directory(root, [])) == [".gitignore", "a.log"]


def test_links_are_followed_and_no_walk_is_endless(tmp_path: Path) -> None:
    root = put(tmp_path / "root", {"a.txt": "a"})
    put(tmp_path / "elsewhere", {"b.txt": "b"})
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "file").symlink_to(tmp_path / "elsewhere/b.txt")
    (root / "loop").symlink_to(root)
    (root / "nothing").symlink_to(tmp_path / "not there")
    os.mkfifo(root / "pipe")
    (root / "empty").mkdir()
    assert names(pack_directory(root, [])) == ["a.txt", "empty/", "file", "linked/b.txt"]


def test_modules_files_and_wheels(tmp_path: Path) -> None:
    package = put(tmp_path / "shop", {"__init__.py": "", "prices.py": ""})
    assert names(pack_directory(package, [], parent="shop")) == [
        "shop/__init__.py",
        "shop/prices.py",
    ]
    assert names(pack_file(package / "prices.py")) == ["prices.py"]
    wheel = tmp_path / "shop-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in (
            "shop/__init__.py",
            "shop-1.dist-info/METADATA",
            "shop-1.data/purelib/extra.py",
            "shop-1.data/scripts/run",
        ):
            archive.writestr(name, "")
    assert names(pack_archive(wheel)) == [
        "extra.py",
        "shop-1.dist-info/METADATA",
        "shop/__init__.py",
    ]
    (tmp_path / "no.zip").write_text("no")
    with pytest.raises(RuntimeEnvSetupError, match="not a zip file"):
        pack_archive(tmp_path / "no.zip")


def test_too_large_a_directory_names_its_largest_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = put(tmp_path / "root", {"small": "1", "large": "1" * 1000})
    monkeypatch.setattr(packing, "MOST_BYTES", 1001)
    pack_directory(root, []).file.close()
    monkeypatch.setattr(packing, "MOST_BYTES", 1000)
    with pytest.raises(RuntimeEnvSetupError, match=r"largest: large .*excludes"):
        pack_directory(root, [])


# -- stored and unpacked -------------------------------------------------------------------


def test_a_name_that_is_not_utf_8_is_said(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"data-\xff.bin")).touch()
    with pytest.raises(RuntimeEnvSetupError, match=r"the name of 'data-.*' is not UTF-8"):
        pack_directory(tmp_path, [])


def test_a_chunk_fits_its_place_only() -> None:
    signer = Signer(b"k" * 16)
    blob = encode_chunk(signer, "d1", 0, 2, b"data")
    assert decode_chunk(signer, "d1", 0, 2, blob) == b"data"
    for digest, index, count, altered in (
        ("d2", 0, 2, blob),
        ("d1", 1, 2, blob),
        ("d1", 0, 1, blob),
        ("d1", 0, 2, blob[:-1] + b"x"),
        ("d1", 0, 2, b"XXXX" + blob[4:]),
    ):
        with pytest.raises(TamperedError):
            decode_chunk(signer, digest, index, count, altered)
    with pytest.raises(TamperedError):
        decode_chunk(Signer(b"o" * 16), "d1", 0, 2, blob)


@pytest.fixture
def cache(tmp_path: Path) -> EnvironmentCache:
    cache = EnvironmentCache("n1", tmp_path / "env")
    cache.open()
    return cache


def reader(packed: Packed, reads: list[str]) -> Callable[[], list[bytes]]:
    def read() -> list[bytes]:
        reads.append(packed.digest)
        packed.file.seek(0)
        return [packed.file.read()]

    return read


def test_a_package_is_unpacked_once_a_job(cache: EnvironmentCache, tmp_path: Path) -> None:
    root = put(tmp_path / "root", {"run.sh": "#!", "sub/a.txt": "a"})
    (root / "run.sh").chmod(0o755)
    (root / "empty").mkdir()
    packed = pack_directory(root, [])
    reads: list[str] = []
    with packed.file:
        read = reader(packed, reads)
        directory = cache.unpacked("job1", packed.digest, read)
        assert cache.unpacked("job1", packed.digest, read) == directory
        assert len(reads) == 1
        other = cache.unpacked("job2", packed.digest, read)
    assert other != directory
    assert (directory / "sub/a.txt").read_text() == "a"
    assert (directory / "empty").is_dir()
    assert (directory / "run.sh").stat().st_mode & 0o777 == 0o700
    assert (directory / "sub/a.txt").stat().st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == 0o700
    cache.sweep(lambda: {"job2"})
    assert not directory.exists()
    assert other.exists()
    cache.close()
    assert not (tmp_path / "env").exists()


def test_a_package_can_name_nothing_outside_of_its_directory(
    cache: EnvironmentCache, tmp_path: Path
) -> None:
    for name in ("../out", "/etc/out", "a/../../out", "a//b"):
        archive = tmp_path / "bad.zip"
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr(name, "x")
        with pytest.raises(zipfile.BadZipFile, match="outside"):
            cache.unpacked("job", "d", lambda: [archive.read_bytes()])  # noqa: B023 - called at once
    assert list(tmp_path.rglob("out")) == []


def test_what_a_killed_node_worker_left_goes_with_the_next(tmp_path: Path) -> None:
    base = tmp_path / "env"
    base.mkdir(mode=0o700)
    (base / "dead/jobs/job/digest").mkdir(parents=True)
    (base / "dead.lock").touch()
    living = EnvironmentCache("living", base)
    living.open()
    cache = EnvironmentCache("n1", base)
    cache.open()
    for thread in threading.enumerate():
        if thread.name == "celery-actors-sweep":
            thread.join(60)
    assert not (base / "dead").exists()
    assert not (base / "dead.lock").exists()
    assert (base / "living/jobs").is_dir()
    cache.close()
    living.close()
    assert not base.exists()


def test_a_sweep_that_is_late_finds_nothing_and_makes_nothing(
    cache: EnvironmentCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = list((tmp_path / "env").glob("*.lock"))
    assert found
    cache.close()
    monkeypatch.setattr(Path, "glob", lambda _self, _pattern: found)  # it looked before
    cache._sweep_killed()
    assert not (tmp_path / "env").exists()


def test_others_may_not_have_made_the_directory(tmp_path: Path) -> None:
    base = tmp_path / "env"
    base.mkdir(mode=0o755)
    base.chmod(0o755)
    with pytest.raises(PermissionError, match="open to other users"):
        EnvironmentCache("n1", base).open()


def test_a_process_that_has_not_started(cache: EnvironmentCache) -> None:
    in_time = cache.start_file("i1", 60)
    endless = cache.start_file("i2", -1)
    late = cache.start_file("i3", 0)
    in_time.path.write_text("no module named celery\n")
    assert cache.overdue() == ["i3"]
    found = cache.start_of("i1")
    assert found is not None
    assert (found.tail(), found.late) == ("no module named celery", False)
    assert cache.start_of("i4") is None
    for file in (in_time, endless, late):
        file.path.unlink()
    assert cache.overdue() == []
    cache.close()
    assert cache.overdue() == []


def test_modules_are_named_by_their_files() -> None:
    assert path_of_module(json) == Path(json.__file__).parent
    assert path_of_module(types) == Path(types.__file__ or "")
    with pytest.raises(ValueError, match="built in"):
        path_of_module(sys)
