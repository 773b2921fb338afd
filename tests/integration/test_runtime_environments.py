"""Actors and tasks find the environment that their runtime_env describes, on real brokers."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from fixture_types import RunScript, StartNode
from waiting import record_of, wait_for_state, wait_until

import celery_actors as ray
from celery_actors.client import executors as executors_module
from celery_actors.client.current import require_process
from celery_actors.exceptions import RuntimeEnvSetupError
from celery_actors.local import PrivateCluster
from celery_actors.runtime_env import RuntimeEnv
from celery_actors.session import SessionInfo
from celery_actors.worker.context import current_assignment

JOB_ENV = {"env_vars": {"FROM_JOB": "job", "BOTH": "job", "OF_NODE": "<${NODE_SAYS}>"}}


@pytest.fixture(scope="module")
def cluster(brokers: PrivateCluster, start_node: StartNode) -> Iterator[SessionInfo]:
    start_node(
        "one", num_cpus=4, env={"NODE_SAYS": "hello", "NODE_ONLY": "node", "LC_ALL": "C.UTF-8"}
    )
    session = ray.init(brokers.address, runtime_env=JOB_ENV, log_to_driver=False)
    wait_until(ray.nodes, "the node")
    yield session
    ray.shutdown()


pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote
class Probe:
    def environ(self, *names: str) -> list[str | None]:
        return [os.environ.get(name) for name in names]

    def run(self, code: str) -> Any:
        names: dict[str, Any] = {}
        exec(code, names)  # what this process sees, asked from outside
        return names.get("answer")


@ray.remote
def environ(*names: str) -> list[str | None]:
    return [os.environ.get(name) for name in names]


@ray.remote
def run(code: str) -> Any:
    names: dict[str, Any] = {}
    exec(code, names)
    return names.get("answer")


@ray.remote
def nested(options: dict[str, Any], *names: str) -> Any:
    return ray.get(environ.options(**options).remote(*names))


def put(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


# -- variables -----------------------------------------------------------------------------


def test_the_jobs_variables_are_everywhere_but_in_the_driver() -> None:
    names = ("FROM_JOB", "OF_NODE", "NODE_ONLY")
    expected = ["job", "<hello>", "node"]
    probe = Probe.remote()
    assert ray.get(probe.environ.remote(*names)) == expected
    assert ray.get(environ.remote(*names)) == expected
    assert ray.get(nested.remote({}, *names)) == expected
    assert "FROM_JOB" not in os.environ
    assert dict(current_assignment().runtime_env) == JOB_ENV


def test_variables_are_merged_with_those_of_the_creator() -> None:
    names = ("FROM_JOB", "BOTH", "MINE", "CHILD", "NO_SUCH")
    env = RuntimeEnv(env_vars={"BOTH": "mine", "MINE": "1", "NO_SUCH": "[${NOT_SET_AT_ALL}]"})
    probe = Probe.options(runtime_env=env).remote()
    assert ray.get(probe.environ.remote(*names)) == ["job", "mine", "1", None, "[]"]
    changed = environ.options(runtime_env={"env_vars": {"BOTH": "task"}})
    assert ray.get(changed.remote(*names)) == ["job", "task", None, None, None]
    inside = {"runtime_env": {"env_vars": {"CHILD": "2", "BOTH": "child"}}}
    outer = nested.options(runtime_env=env)
    assert ray.get(outer.remote(inside, *names)) == ["job", "child", "1", "2", "[]"]


def test_tasks_of_different_environments_share_no_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # However long the other one takes to start, each is there for its second task.
    monkeypatch.setattr(executors_module, "_LINGER", 60.0)
    code = "import os; answer = os.getpid(), os.environ.get('WHICH')"
    found = {
        ray.get(run.options(runtime_env={"env_vars": {"WHICH": which}}).remote(code))
        for which in ("a", "b", "a", "b")
    }
    assert sorted(which for _, which in found) == ["a", "b"]
    assert len({pid for pid, _ in found}) == 2


def test_variables_are_there_before_any_import_of_the_user(tmp_path: Path) -> None:
    put(tmp_path, {"early_bird.py": "import os\nSEEN = os.environ.get('EARLY')\n"})
    env = {"env_vars": {"EARLY": "yes", "CUDA_VISIBLE_DEVICES": "3"}, "py_modules": [tmp_path]}
    # py_modules of a directory: the directory itself is the (namespace) package.
    code = (
        f"import {tmp_path.name}.early_bird as m, os\n"
        "answer = m.SEEN, os.environ['CUDA_VISIBLE_DEVICES']"
    )
    assert ray.get(run.options(runtime_env=env).remote(code)) == ("yes", "")


def test_what_only_exec_can_set_is_set() -> None:
    probe = Probe.options(
        runtime_env={"env_vars": {"PYTHONHASHSEED": "7", "PYTHONOPTIMIZE": "1"}}
    ).remote()
    code = "import sys; answer = sys.flags.hash_randomization, sys.flags.optimize, hash('a')"
    expected = subprocess.run(
        [sys.executable, "-c", "print(hash('a'))"],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ray.get(probe.run.remote(code)) == (1, 1, int(expected.stdout))
    assert ray.get(probe.environ.remote("FROM_JOB")) == ["job"]


@pytest.mark.parametrize("kind", ["actor", "task"])
def test_what_was_read_once_is_read_again(kind: str, tmp_path: Path) -> None:
    asked = (
        "import datetime, tempfile, time\n"
        "offset = datetime.datetime(2024, 7, 1).astimezone().utcoffset().total_seconds()\n"
        "answer = time.tzname[0], offset, tempfile.gettempdir()"
    )
    variables = {"TZ": "Asia/Tokyo", "TMPDIR": str(tmp_path)}
    environment: RuntimeEnv = {"env_vars": variables}
    if kind == "actor":
        answer = Probe.options(runtime_env=environment).remote().run.remote(asked)
    else:
        answer = run.options(runtime_env=environment).remote(asked)
    assert ray.get(answer) == ("JST", 9 * 3600, str(tmp_path))


def test_a_locale_is_the_whole_interpreters() -> None:
    asked = "import locale, sys\nanswer = locale.setlocale(locale.LC_CTYPE), sys.flags.utf8_mode"
    other = Probe.options(runtime_env={"env_vars": {"LC_ALL": "POSIX"}}).remote()
    assert ray.get(other.run.remote(asked)) == ("C", 1)


def test_an_equal_value_starts_no_interpreter() -> None:
    asked = "import sys\nanswer = sys.argv[0]"
    plain = ray.get(Probe.remote().run.remote(asked))
    equal = Probe.options(runtime_env={"env_vars": {"LC_ALL": "C.UTF-8"}}).remote()
    assert ray.get(equal.run.remote(asked)) == plain
    other = Probe.options(runtime_env={"env_vars": {"LC_ALL": "POSIX"}}).remote()
    assert ray.get(other.run.remote(asked)) != plain


def test_a_python_path_among_the_variables(tmp_path: Path) -> None:
    put(tmp_path, {"by_path.py": "VALUE = 3\n"})
    env = {"env_vars": {"PYTHONPATH": f"{tmp_path}:${{PYTHONPATH}}"}}
    assert (
        ray.get(run.options(runtime_env=env).remote("import by_path as m; answer = m.VALUE")) == 3
    )


# -- files ---------------------------------------------------------------------------------


def test_a_working_directory(tmp_path: Path) -> None:
    root = put(
        tmp_path / "root",
        {
            "hello.txt": "hello",
            "greeter_wd.py": "TEXT = open('hello.txt').read()\n",
            "secret.env": "",
            "notes.log": "",
            ".gitignore": "*.log\n",
            "bin/tool.sh": "#!/bin/sh\necho tool\n",
        },
    )
    (root / "bin/tool.sh").chmod(0o755)
    env = {"working_dir": str(root), "excludes": ["secret.env"]}
    probe = Probe.options(runtime_env=env).remote()
    code = (
        "import os, subprocess, sys\n"
        "files = sorted(os.listdir())\n"  # before an import adds its cache
        "import greeter_wd\n"
        "answer = [greeter_wd.TEXT, files, os.getcwd(), sys.path[0],\n"
        "  subprocess.run(['bin/tool.sh'], capture_output=True, text=True).stdout,\n"
        "  subprocess.run([sys.executable, '-c', 'import greeter_wd; print(greeter_wd.TEXT)'],\n"
        "    capture_output=True, text=True, cwd=os.getcwd()).stdout]"
    )
    text, files, directory, first, tool, child = ray.get(probe.run.remote(code))
    assert (text, tool, child) == ("hello", "tool\n", "hello\n")
    assert files == [".gitignore", "bin", "greeter_wd.py", "hello.txt"]
    assert directory == first
    assert Path(directory) != root
    # Unpacked once a job: another process of the same directory is in the same place.
    assert (
        ray.get(run.options(runtime_env=env).remote("import os; answer = os.getcwd()")) == directory
    )
    # A child inherits it; the creator's own paths are not searched.
    code = (
        "import celery_actors as ray, os\n"
        "@ray.remote\n"
        "def where():\n"
        "    import os, sys\n"
        "    return os.getcwd(), sys.path[0]\n"
        "answer = ray.get(where.remote())"
    )
    assert ray.get(probe.run.remote(code)) == (directory, directory)


def test_a_working_directory_in_an_archive(tmp_path: Path) -> None:
    archive = tmp_path / "code.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("zipped_mod.py", "VALUE = 8\n")
    env = {"working_dir": str(archive)}
    code = "import zipped_mod, os; answer = zipped_mod.VALUE, os.listdir()"
    value, files = ray.get(run.options(runtime_env=env).remote(code))
    assert value == 8
    assert "zipped_mod.py" in files


def test_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = put(tmp_path / "pack_a", {"__init__.py": "VALUE = 'package'\n", "more.py": "M = 1\n"})
    (tmp_path / "linked_f").symlink_to(package)
    single = put(tmp_path / "files", {"single_b.py": "VALUE = 'file'\n"}) / "single_b.py"
    wheel = tmp_path / "wheel_c-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("wheel_c/__init__.py", "VALUE = 'wheel'\n")
        file.writestr("wheel_c-1.dist-info/METADATA", "Name: wheel-c\nVersion: 1\n")
    archive = tmp_path / "d.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("zip_d.py", "VALUE = 'zip'\n")
    put(tmp_path / "imported", {"module_e/__init__.py": "VALUE = 'module'\n"})
    monkeypatch.syspath_prepend(tmp_path / "imported")
    import module_e  # type: ignore[import-not-found]

    env = {"py_modules": [str(package), single, str(wheel), str(archive), module_e]}
    env["py_modules"].append(tmp_path / "linked_f")
    probe = Probe.options(runtime_env=env).remote()
    code = (
        "import pack_a.more, single_b, wheel_c, zip_d, module_e, linked_f, importlib.metadata\n"
        "answer = [m.VALUE for m in (pack_a, single_b, wheel_c, zip_d, module_e, linked_f)] + [\n"
        "  importlib.metadata.version('wheel-c'), module_e.__file__]"
    )
    *values, where = ray.get(probe.run.remote(code))
    assert values == ["package", "file", "wheel", "zip", "module", "package", "1"]
    assert not where.startswith(str(tmp_path))
    # A child that names other modules does not find those of its creator.
    code = (
        "import celery_actors as ray\n"
        "@ray.remote(runtime_env={'py_modules': []})\n"
        "def there():\n"
        "    import importlib.util\n"
        "    return importlib.util.find_spec('pack_a') is not None\n"
        "@ray.remote\n"
        "def inherits():\n"
        "    import pack_a\n"
        "    return pack_a.VALUE\n"
        "answer = ray.get([there.remote(), inherits.remote()])"
    )
    assert ray.get(probe.run.remote(code)) == [False, "package"]


def test_modules_come_from_the_working_directory_and_not_from_the_drivers(
    tmp_path: Path, run_script: RunScript
) -> None:
    root = put(
        tmp_path / "project",
        {
            "shop_wd.py": (
                "class Shop:\n"
                "    def where(self):\n"
                "        import prices_wd\n"
                "        return prices_wd.__file__\n"
            ),
            "prices_wd.py": "",
        },
    )
    out = run_script(
        "import sys, os\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import celery_actors as ray\n"
        "from shop_wd import Shop\n"
        "ray.init(runtime_env={'working_dir': sys.argv[1]})\n"
        "print(ray.get(ray.remote(Shop).remote().where.remote()))\n",
        str(root),
    )
    assert out.stdout.strip().endswith("prices_wd.py")
    assert not out.stdout.startswith(str(root))


def test_a_package_that_the_job_has_can_be_given_again(tmp_path: Path) -> None:
    root = put(tmp_path / "root", {"again.txt": "x"})
    first = Probe.options(runtime_env={"working_dir": str(root)}).remote()
    code = (
        "from celery_actors.worker.context import current_assignment\n"
        "answer = dict(current_assignment().runtime_env)"
    )
    shown = ray.get(first.run.remote(code))
    assert shown["working_dir"].startswith("package://")
    assert shown["env_vars"] == JOB_ENV["env_vars"]
    second = run.options(runtime_env={"working_dir": shown["working_dir"]})
    assert ray.get(second.remote("import os; answer = os.listdir()")) == ["again.txt"]
    unknown = {"working_dir": "package://" + "0" * 32 + ".zip"}
    with pytest.raises(RuntimeEnvSetupError, match="no package that this job has stored"):
        run.options(runtime_env=unknown).remote("")


def test_files_that_are_not_there() -> None:
    with pytest.raises(ValueError, match="neither a directory nor"):
        Probe.options(runtime_env={"working_dir": "/no/such/directory"}).remote()
    with pytest.raises(ValueError, match="is not on this machine"):
        run.options(runtime_env={"py_modules": ["/no/such/module"]}).remote("")


def test_packages_go_with_their_job(
    tmp_path: Path, brokers: PrivateCluster, run_script: RunScript
) -> None:
    root = put(tmp_path / "root", {"data.bin": "x" * 100})
    (root / "data.bin").write_bytes(os.urandom(3 << 20))
    out = run_script(
        "import sys\n"
        "import celery_actors as ray\n"
        "from celery_actors.client.current import require_process\n"
        "ray.init(runtime_env={'working_dir': sys.argv[1]})\n"
        "@ray.remote\n"
        "def f():\n"
        "    import os\n"
        "    return os.getcwd(), os.path.getsize('data.bin')\n"
        "where, size = ray.get(f.remote())\n"
        "process = require_process()\n"
        "key = f'{process.settings.prefix}job:{process.job_id}:packages'\n"
        "print(where, size, process.redis.hlen(key), key)\n",
        str(root),
    )
    where, size, fields, key = out.stdout.split()
    assert (int(size), int(fields)) == (3 << 20, 5)  # four chunks, and their number
    with redis.Redis.from_url(brokers.address.result_backend) as client:
        assert not client.exists(key)
    job = Path(where).parent
    assert job.name in key
    wait_until(lambda: not job.exists(), f"the end of {job}")


# -- another interpreter -------------------------------------------------------------------


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment of its own that finds what this one has installed."""
    root = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root)], check=True)
    packages = next(root.glob("lib/python*/site-packages"))
    (packages / "rest.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (packages / "only_here.py").write_text("VALUE = 'venv'\n")
    return root


def test_another_interpreter(venv: Path, tmp_path: Path) -> None:
    put(tmp_path / "wd", {"in_wd.py": "VALUE = 'wd'\n"})
    env = {
        "py_executable": f"{venv}/bin/python -X utf8=1",
        "working_dir": str(tmp_path / "wd"),
        "env_vars": {"MINE": "1"},
    }
    probe = Probe.options(runtime_env=env).remote()
    code = (
        "import celery_actors, only_here, in_wd, os, sys\n"
        "answer = {'prefix': sys.prefix, 'flags': sys.flags.utf8_mode, 'pid': os.getpid(),\n"
        "  'parent': os.getppid(), 'values': [only_here.VALUE, in_wd.VALUE],\n"
        "  'argv': ' '.join(open('/proc/self/cmdline').read().split(chr(0))),\n"
        "  'environ': open('/proc/self/environ').read(), 'first': sys.path[0],\n"
        "  'cwd': os.getcwd(), 'input': os.read(0, 1), 'file': celery_actors.__file__}"
    )
    found = ray.get(probe.run.remote(code))
    assert found["prefix"] == str(venv)
    assert found["flags"] == 1
    assert found["values"] == ["venv", "wd"]
    assert found["first"] == found["cwd"]
    assert found["input"] == b""
    assert found["file"] == ray.__file__
    key = require_process().settings.key.decode()
    assert key not in found["argv"]
    assert key not in found["environ"]
    assert ray.get(probe.environ.remote("FROM_JOB", "MINE")) == ["job", "1"]
    record = record_of(probe)
    assert record.pid == found["pid"]
    # Killed and reaped as any other.
    ray.kill(probe)
    wait_until(lambda: not Path(f"/proc/{record.pid}").exists(), "the end of the process")
    task = run.options(runtime_env={"py_executable": f"{venv}/bin/python"})
    assert ray.get(task.remote("import only_here; answer = only_here.VALUE")) == "venv"


def test_a_script_around_the_interpreter(venv: Path, tmp_path: Path) -> None:
    """Like `uv run`: the process that the node knows is not the interpreter itself."""
    wrapper = put(tmp_path / "wd", {"wrap.sh": f'#!/bin/sh\n{venv}/bin/python "$@"\nexit $?\n'})
    (wrapper / "wrap.sh").chmod(0o755)
    env = {"working_dir": str(wrapper), "py_executable": "./wrap.sh"}
    probe = Probe.options(runtime_env=env).remote()
    pid, parent = ray.get(probe.run.remote("import os; answer = os.getpid(), os.getppid()"))
    assert b"wrap.sh" in Path(f"/proc/{parent}/cmdline").read_bytes()
    ray.kill(probe)
    for process in (parent, pid):
        wait_until(lambda: not Path(f"/proc/{process}").exists(), f"the end of {process}")  # noqa: B023


def test_an_actor_of_another_interpreter_dies_of_its_own(venv: Path) -> None:
    probe = Probe.options(runtime_env={"py_executable": f"{venv}/bin/python"}).remote()
    with pytest.raises(ray.exceptions.ActorDiedError, match="status 9"):
        ray.get(probe.run.remote("import os; os._exit(9)"))


# -- what fails ----------------------------------------------------------------------------


def failing(env: dict[str, Any], message: str) -> None:
    probe = Probe.options(runtime_env=env).remote()
    calls = [probe.environ.remote("A"), probe.environ.remote("B")]
    for call in calls:
        with pytest.raises(RuntimeEnvSetupError, match=message):
            ray.get(call)
    with pytest.raises(RuntimeEnvSetupError, match=message):
        ray.get(probe.environ.remote("C"))
    record = wait_for_state(probe, "DEAD")
    assert "runtime_env" in record.cause or "py_executable" in record.cause
    task = environ.options(runtime_env=env)
    for call in [task.remote("A") for _ in range(3)]:
        with pytest.raises(RuntimeEnvSetupError, match=message):
            ray.get(call)


def test_an_interpreter_that_is_not_there() -> None:
    failing({"py_executable": "/no/such/python"}, r"/no/such/python.*No such file")


def test_an_interpreter_without_the_packages(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "v")], check=True)
    env = {"py_executable": f"{tmp_path}/v/bin/python", "env_vars": {"PYTHONPATH": ""}}
    failing(env, r"(?s)status 1.*No module named '(celery|redis|cloudpickle)'")


def test_no_interpreter_at_all() -> None:
    failing({"py_executable": "sh -c 'echo went wrong >&2; exit 5'"}, r"(?s)status 5.*went wrong")


def test_an_interpreter_that_takes_too_long() -> None:
    env = {"py_executable": "sh -c 'sleep 600'", "config": {"setup_timeout_seconds": 0.5}}
    failing(env, "it took too long")


def test_files_that_take_too_long(tmp_path: Path) -> None:
    put(tmp_path / "slow", {"a.txt": ""})
    env = {"working_dir": str(tmp_path / "slow"), "config": {"setup_timeout_seconds": 1e-6}}
    failing(env, "not set up within 1e-06 s")


def test_a_package_that_was_altered(tmp_path: Path) -> None:
    root = put(tmp_path / "root", {"altered.py": "VALUE = 1\n"})
    changed = Probe.options(runtime_env={"working_dir": str(root)})
    process = require_process()
    key = f"{process.settings.prefix}job:{process.job_id}:packages"
    before = set(process.redis.hkeys(key))  # type: ignore[arg-type]
    ray.get(changed.remote().environ.remote("A"))
    names = {name for name in process.redis.hkeys(key) if name not in before}  # type: ignore[union-attr]
    (field,) = (name for name in names if b":" in name)
    stored = process.redis.hget(key, field)
    assert isinstance(stored, bytes)
    where = ray.get(
        run.options(runtime_env={"working_dir": str(root)}).remote(
            "import os; answer = os.getcwd()"
        )
    )
    process.redis.hset(key, field, stored[:-1] + bytes([stored[-1] ^ 1]))
    Path(where).rename(Path(where).with_name("away"))  # it is unpacked again
    with pytest.raises(RuntimeEnvSetupError, match="no valid signature"):
        ray.get(changed.remote().environ.remote("A"))
