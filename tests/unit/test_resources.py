"""What a machine has. The NVML part runs the real pynvml against a library built from C here."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from celery_actors.worker import resources
from celery_actors.worker.resources import GPU, ResourceOptions, detect, visible_devices

ROOT = Path(__file__).parents[2]
STUB = Path(__file__).parents[1] / "nvml_stub" / "nvml_stub.c"

DETECT = """
import json, logging, os, sys
lines = []
class Keep(logging.Handler):
    def emit(self, record):
        lines.append([record.levelname, record.getMessage()])
logging.getLogger("celery_actors").addHandler(Keep())
logging.getLogger("celery_actors").setLevel(logging.DEBUG)
from celery_actors.worker.resources import ResourceOptions, detect, visible_devices
assert "pynvml" not in sys.modules, "imported only when needed"
num_gpus = json.loads(sys.argv[1])
try:
    gpus = detect(ResourceOptions(num_gpus=num_gpus)).gpus
except ValueError as error:
    print(json.dumps({"error": str(error), "log": lines}))
else:
    fields = [[gpu.index, gpu.uuid, gpu.name, gpu.memory] for gpu in gpus]
    ids = [gpu.index for gpu in gpus]
    result = {"gpus": fields, "ids": ids, "visible": visible_devices(gpus, ids), "log": lines}
    print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a freshly built libnvidia-ml.so.1."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("nvml")
    library = folder / "libnvidia-ml.so.1"
    command = [compiler, "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-O1", "-o"]
    subprocess.run([*command, library, STUB], check=True)
    return folder


def run(
    library: Path | None, visible: str | None = None, num_gpus: float | None = None, **stub: object
) -> dict[str, Any]:
    """`detect` in a process of its own: the library is looked for when pynvml loads it."""
    env = {k: v for k, v in os.environ.items() if k not in ("CUDA_VISIBLE_DEVICES",)}
    env |= {"PYTHONPATH": str(ROOT), "LD_LIBRARY_PATH": str(library or "")}
    env |= {f"NVML_STUB_{name.upper()}": str(value) for name, value in stub.items()}
    if visible is not None:
        env["CUDA_VISIBLE_DEVICES"] = visible
    done = subprocess.run(
        [sys.executable, "-c", DETECT, json.dumps(num_gpus)],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    result: dict[str, Any] = json.loads(done.stdout)
    return result


# -- NVML, through the real pynvml -----------------------------------------------------------------


def test_gpus_are_found_through_nvml(stub: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    found = run(
        stub, gpus=2, names="H100;A10", uuids="GPU-aa;GPU-bb", memory=f"{80 << 30};-", log=log
    )
    assert found["gpus"] == [[0, "GPU-aa", "H100", 80 << 30], [1, "GPU-bb", "A10", 0]]
    assert found["log"] == []
    assert log.read_text().split() == ["init", "shutdown"]


@pytest.mark.parametrize(
    ("visible", "ids", "assigned"),
    [
        (None, [0, 1, 2, 3, 4, 5, 6, 7], "0,1,2,3,4,5,6,7"),
        ("4,5", [4, 5], "4,5"),
        ("5,4", [5, 4], "5,4"),
        (" 6 , 1", [6, 1], "6,1"),
        ("", [], ""),
        ("-1", [], ""),
        ("NoDevFiles", [], ""),
        ("none", [], ""),
        ("1,-1,2", [1], "1"),
        ("1,99,2", [1], "1"),
        ("1,gpu,2", [1], "1"),
        ("99,1", [], ""),
        ("1,2,1", [], ""),
        ("GPU-c,GPU-a", [2, 0], "GPU-c,GPU-a"),
        ("GPU-c,GPU-unknown,GPU-a", [2], "GPU-c"),
        ("GPU-h", [], ""),
        ("GPU-h1,GPU-h2", [6, 7], "GPU-h1,GPU-h2"),
        ("GPU-h1-full,GPU-h1", [], ""),
        ("GPU-c,1", [2], "GPU-c"),
        ("1,GPU-c", [1], "1"),
    ],
)
def test_visible_devices_are_read_as_cuda_reads_them(
    stub: Path, visible: str | None, ids: list[int], assigned: str
) -> None:
    uuids = "GPU-a1;GPU-b1;GPU-c1;GPU-d1;GPU-e1;GPU-f1;GPU-h1-full;GPU-h2-full"
    found = run(stub, visible, gpus=8, uuids=uuids)
    assert found["ids"] == ids
    assert found["visible"] == assigned
    assert [gpu[1] for gpu in found["gpus"]] == [uuids.split(";")[index] for index in ids]


def test_mig_instances(stub: Path) -> None:
    found = run(stub, "MIG-77", gpus=1, mig="MIG-77")
    assert found["gpus"] == [[0, "MIG-77", "Stub GPU 64", 8 << 30]]
    assert found["visible"] == "MIG-77"
    assert run(stub, "MIG-other", gpus=1, mig="MIG-77")["ids"] == []


def test_declared_number_takes_the_first(stub: Path) -> None:
    assert run(stub, num_gpus=2, gpus=4)["ids"] == [0, 1]
    assert run(stub, "3,1,2", num_gpus=2, gpus=4)["ids"] == [3, 1]
    none = run(stub, num_gpus=0, gpus=4, init=9)
    assert (none["ids"], none["log"]) == ([], [])  # NVML is not even asked


def test_declared_number_above_the_real_one(stub: Path) -> None:
    more = run(stub, num_gpus=4, gpus=1)
    assert [gpu[:3] for gpu in more["gpus"]][1:] == [[n, "", "logical"] for n in (1, 2, 3)]
    assert more["log"] == [["WARNING", "num_gpus=4, but this machine has 1: the rest are logical"]]


@pytest.mark.parametrize("visible", ["0", ""])
def test_logical_gpus_never_stand_for_hidden_ones(stub: Path, visible: str) -> None:
    refused = run(stub, visible, num_gpus=2, gpus=4)
    assert "num_gpus=2, but" in refused["error"]
    assert "of this machine's 4 GPUs" in refused["error"]


def test_a_failing_nvml_is_named(stub: Path) -> None:
    for code, name in ((9, "NVML_ERROR_DRIVER_NOT_LOADED (9)"), (18, "NVML_ERROR_LIB_RM_VERSION")):
        found = run(stub, init=code)
        assert found["gpus"] == []
        ((level, message),) = found["log"]
        assert level == "WARNING"
        assert name in message
    ((_, message),) = run(stub, init=777)["log"]
    assert "NVML error (777): an error of the stub" in message


def test_one_lost_gpu_leaves_the_others(stub: Path) -> None:
    found = run(stub, gpus=3, lost=1)
    assert found["ids"] == [0, 2]
    # CUDA may count differently now; UUIDs are the same to both.
    assert found["visible"] == ",".join(gpu[1] for gpu in found["gpus"])
    ((level, message),) = found["log"]
    assert level == "WARNING"
    assert "NVML_ERROR_GPU_IS_LOST" in message


@pytest.fixture
def no_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without NVIDIA's driver, whatever this one has."""
    pynvml = pytest.importorskip("pynvml")

    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)


@pytest.mark.usefixtures("no_nvml")
def test_no_library_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="celery_actors"):
        assert detect(environ={}).gpus == ()
    assert [record.levelname for record in caplog.records] == ["DEBUG"]


def test_no_pynvml_is_no_news(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with caplog.at_level(logging.INFO, logger="celery_actors"):
        assert detect(environ={}).gpus == ()
    assert caplog.records == []


@pytest.mark.usefixtures("no_nvml")
@pytest.mark.parametrize(
    ("visible", "num_gpus", "ids"),
    [
        (None, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        ("", 2, [0, 1]),
        ("-1", 2, [0, 1]),
        ("4,5", 2, [4, 5]),
        ("5,4,3", 2, [5, 4]),
        ("4,5", None, []),
        (None, 2.0, [0, 1]),
        (None, 0, []),
    ],
)
def test_logical_gpus(visible: str | None, num_gpus: float | None, ids: list[int]) -> None:
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    gpus = detect(ResourceOptions(num_gpus=num_gpus), environ=environ).gpus
    assert [gpu.index for gpu in gpus] == ids
    assert all(gpu.name == "logical" and not gpu.uuid and not gpu.memory for gpu in gpus)


@pytest.mark.usefixtures("no_nvml")
@pytest.mark.parametrize("num_gpus", [-1, 1.5, float("nan"), float("inf")])
def test_senseless_numbers_of_gpus(num_gpus: float) -> None:
    with pytest.raises(ValueError, match="num_gpus"):
        detect(ResourceOptions(num_gpus=num_gpus), environ={})


@pytest.mark.usefixtures("no_nvml")
def test_more_logical_gpus_than_listed() -> None:
    with pytest.raises(ValueError, match="names 2"):
        detect(ResourceOptions(num_gpus=3), environ={"CUDA_VISIBLE_DEVICES": "4,5"})


def test_visible_devices_of_an_assignment() -> None:
    gpus = (GPU(4), GPU(5), GPU(7, "GPU-abc", token="GPU-a"))
    assert visible_devices(gpus, [5]) == "5"
    assert visible_devices(gpus, [7, 4]) == "GPU-a,4"
    assert visible_devices(gpus, []) == ""
    with pytest.raises(KeyError):
        visible_devices(gpus, [0])


# -- CPUs, memory, custom resources ----------------------------------------------------------------


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "cpus", "memory"),
    [
        ("", {}, 8, None),
        ("0::/\n", {"cpu.max": "max 100000"}, 8, None),
        ("0::/\n", {"cpu.max": "250000 100000", "memory.max": "1000000"}, 2.5, 1_000_000),
        # The tightest of a group and those above it counts.
        (
            "0::/a/b\n",
            {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000", "a/memory.max": "5000"},
            3,
            5000,
        ),
        # A container that sees the host's path, but only its own group's files.
        ("0::/docker/abc\n", {"cpu.max": "200000 100000"}, 2, None),
        # Less than one CPU would leave no room for any task.
        ("0::/\n", {"cpu.max": "50000 100000"}, 1, None),
        ("0::/\n", {"cpu.max": "9900000 100000"}, 8, None),
        (
            "4:memory:/x\n2:cpu,cpuacct:/x\n0::/\n",
            {
                "cpu,cpuacct/x/cpu.cfs_quota_us": "150000",
                "cpu,cpuacct/x/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "memory/x/memory.limit_in_bytes": "7000",
            },
            1.5,
            7000,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8, None),
    ],
)
def test_control_groups_bound_cpus_and_memory(
    groups: str,
    files: dict[str, str],
    cpus: float,
    memory: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    proc = tree(tmp_path / "proc", {"self/cgroup": groups})
    found = detect(ResourceOptions(num_gpus=0), proc=proc, cgroup=tree(tmp_path / "cgroup", files))
    assert found.cpus == cpus
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert found.memory == (machine if memory is None else memory)


def test_this_machine() -> None:
    found = detect(ResourceOptions(num_gpus=0))
    assert 1 <= found.cpus <= len(os.sched_getaffinity(0))
    assert found.memory > 1 << 28
    assert found.custom == {}


def test_declared_amounts_are_taken_as_they_are() -> None:
    options = ResourceOptions(
        num_cpus=0.5, num_gpus=0, memory=10, resources={"tpu": 2, "licence": 0.25}
    )
    found = detect(options)
    assert (found.cpus, found.gpus, found.memory) == (0.5, (), 10)
    assert found.custom == {"tpu": 2.0, "licence": 0.25}
    hash(found)
    hash(options)


@pytest.mark.parametrize(
    "options",
    [
        {"num_cpus": -1},
        {"num_cpus": float("nan")},
        {"memory": -5},
        {"resources": {"x": -1}},
        {"resources": {"": 1}},
        {"resources": {"GPU": 1}},
        {"resources": {"x": float("inf")}},
    ],
)
def test_senseless_amounts(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"amount|cannot be the name"):
        detect(ResourceOptions(num_gpus=0, **options))


def test_module_exports() -> None:
    assert sorted(resources.__all__) == [
        "GPU",
        "NodeResources",
        "ResourceOptions",
        "detect",
        "visible_devices",
    ]
