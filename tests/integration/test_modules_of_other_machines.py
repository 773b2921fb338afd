"""A process that does not see its driver's files has the driver's modules from packages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fixture_types import RunScript, StartNode
from waiting import wait_until

import celery_actors as ray
from celery_actors.session import SessionInfo

FAR = {"far": 1}

PROGRAM = """
import json, os, signal, sys, time
sys.path.insert(0, sys.argv[1])
import celery_actors as ray
import far_one, far_pack.inner, far_space.part

@ray.remote(resources={"far": 1}, num_cpus=0)
class Far:
    def files(self):
        import far_late
        return far_one.__file__, far_pack.inner.__file__, far_space.part.__file__, far_late.__file__
    def same(self, thing, kind):
        return type(thing) is far_one.Thing, kind is far_one.Kind.A
    def give(self):
        return far_one.Thing(), far_one.Kind.A
    def data(self):
        return far_pack.inner.data(), far_one.helped()
    def fail(self):
        raise far_one.Empty("far")
    def here(self, thing):
        @ray.remote(num_cpus=0)
        class Beside:
            def same(self, thing):
                return type(thing) is far_one.Thing
        return [
            ray.get(Beside.options(resources=resources).remote().same.remote(thing))
            for resources in ({"far": 1}, {"near": 1})
        ]
    def missing(self):
        import no_such_module
    def while_stopped(self, driver):
        import celery_actors.worker.modules as modules
        modules._ANSWER_SECONDS = 1.0  # less than the driver's lease
        os.kill(driver, signal.SIGSTOP)
        try:
            import far_stopped
            return "the driver was not stopped"
        except ImportError:
            pass
        finally:
            os.kill(driver, signal.SIGCONT)
        deadline = time.monotonic() + 20
        while True:
            try:
                import far_stopped
                return far_stopped.VALUE
            except ImportError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)  # bounded polling: the driver answers in its own time

ray.init()
far = Far.remote()
files = ray.get(far.files.remote())
sys.path.insert(0, sys.argv[1] + "/late")  # unknown to the actor, which would look there itself
thing, kind = ray.get(far.give.remote())
def raised(ref, expected):
    try:
        ray.get(ref)
    except expected as error:
        return True
print(json.dumps({
    "elsewhere": [sys.argv[1] not in file for file in files],
    "same": ray.get(far.same.remote(far_one.Thing(), far_one.Kind.A)),
    "results": [type(thing) is far_one.Thing, kind is far_one.Kind.A],
    "data": ray.get(far.data.remote()),
    "raised": [raised(far.fail.remote(), far_one.Empty), raised(far.missing.remote(), ImportError)],
    "handed on": ray.get(far.here.remote(far_one.Thing())),
    "late": ray.get(far.while_stopped.remote(os.getpid())),
}))
"""


@pytest.fixture(scope="module", autouse=True)
def nodes(
    driver: SessionInfo, start_node: StartNode, tmp_path_factory: pytest.TempPathFactory
) -> None:
    start_node("near", num_cpus=2, resources={"near": 10})
    memory = tmp_path_factory.mktemp("memory")
    start_node(
        "far",
        num_cpus=2,
        resources={"far": 10},
        env={"CELERY_ACTORS_SHARED_MEMORY_DIR": str(memory)},
    )
    wait_until(lambda: len(ray.nodes()) == 2, "both nodes")


def project(root: Path) -> Path:
    files = {
        "far_one.py": (
            "import enum, far_helper\n"
            "class Thing:\n    pass\n"
            "class Kind(enum.Enum):\n    A = 1\n"
            "class Empty(Exception):\n    pass\n"
            "def helped():\n    return far_helper.VALUE\n"
        ),
        "far_helper.py": "VALUE = 'helped'\n",
        "far_late.py": "",
        "late/far_stopped.py": "VALUE = 'said late'\n",
        "far_pack/__init__.py": "",
        "far_pack/.gitignore": "*.dat\n",
        "far_pack/built.dat": "data of it",
        "far_pack/inner.py": (
            "from pathlib import Path\n"
            "def data():\n    return (Path(__file__).parent / 'built.dat').read_text()\n"
        ),
        "far_space/part.py": "from . import other\n",
        "far_space/other.py": "",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def outcome(run_script: RunScript, program: str, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run_script(program, *arguments).stdout)
    return found


def test_the_drivers_modules_are_sent(run_script: RunScript, tmp_path: Path) -> None:
    assert outcome(run_script, PROGRAM, str(project(tmp_path / "project"))) == {
        "elsewhere": [True] * 4,
        "same": [True, True],
        "results": [True, True],
        "data": ["data of it", "helped"],
        "raised": [True, True],
        "handed on": [True, True],
        "late": "said late",
    }


def test_the_drivers_version_is_taken_and_not_the_nodes(
    run_script: RunScript, tmp_path: Path, start_node: StartNode
) -> None:
    own = tmp_path / "of_the_node"
    own.mkdir()
    (own / "far_version.py").write_text("VALUE = 'of the node'\n")
    (own / "far_nodes_alone.py").write_text("VALUE = 'of the node'\n")
    memory = tmp_path / "memory"
    memory.mkdir()
    env = {"CELERY_ACTORS_SHARED_MEMORY_DIR": str(memory), "PYTHONPATH": str(own)}
    start_node("other", num_cpus=1, resources={"other": 10}, env=env)
    wait_until(lambda: ray.cluster_resources().get("other"), "the node")
    drivers = tmp_path / "of_the_driver"
    drivers.mkdir()
    (drivers / "far_version.py").write_text("VALUE = 'of the driver'\n")
    program = (
        "import json, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import celery_actors as ray\n"
        "import far_version\n"
        "ray.init()\n"
        "@ray.remote(resources={'other': 1}, num_cpus=0)\n"
        "def values():\n"
        "    import far_nodes_alone\n"
        "    return far_version.VALUE, far_nodes_alone.VALUE\n"
        "print(json.dumps({'values': ray.get(values.remote())}))\n"
    )
    assert outcome(run_script, program, str(drivers)) == {
        "values": ["of the driver", "of the node"]
    }


def test_a_package_that_is_too_large_is_an_error_that_says_so(
    run_script: RunScript, tmp_path: Path
) -> None:
    (tmp_path / "far_large").mkdir()
    (tmp_path / "far_large" / "__init__.py").write_text("")
    with (tmp_path / "far_large" / "weights.bin").open("wb") as file:
        file.truncate(501 << 20)
    program = (
        "import json, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import celery_actors as ray\n"
        "import far_large\n"
        "ray.init()\n"
        "@ray.remote(resources={'far': 1}, num_cpus=0)\n"
        "def use():\n"
        "    return far_large.__name__\n"
        "try:\n"
        "    ray.get(use.remote())\n"
        "except ImportError as error:\n"
        "    print(json.dumps({'error': str(error)}))\n"
    )
    error = outcome(run_script, program, str(tmp_path))["error"]
    assert "module far_large could not be sent to this machine" in error
    assert "weights.bin (501.0 MiB)" in error
