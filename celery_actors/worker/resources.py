"""What this machine has: CPUs, GPUs and memory, as this process may use them, and custom resources.

GPUs are found through NVML (the module ``pynvml``), which knows nothing of
``CUDA_VISIBLE_DEVICES``: the rules by which CUDA reads that variable are applied here.
"""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import ModuleType

__all__ = ["GPU", "NodeResources", "ResourceOptions", "detect", "visible_devices"]

logger = logging.getLogger(__name__)

VISIBLE_DEVICES: Final = "CUDA_VISIBLE_DEVICES"
_HIDE_ALL: Final = ("NoDevFiles", "none", "void")
_RESERVED_NAMES: Final = ("CPU", "GPU", "memory")


@dataclass(frozen=True, slots=True)
class GPU:
    """One GPU (or MIG instance) that the node may hand out.

    Args:
        index: its id, as `get_gpu_ids` reports it: the number under which CUDA_VISIBLE_DEVICES
            named it, else NVML's; for a MIG instance its place in CUDA_VISIBLE_DEVICES.
        uuid: NVML's, e.g. ``GPU-8f2d…``; empty for a logical GPU.
        name: e.g. ``NVIDIA H100``; ``logical`` for one that was only declared.
        memory: bytes; 0 where unknown.
        token: how CUDA_VISIBLE_DEVICES names it, where that is not its index.
    """

    index: int
    uuid: str = ""
    name: str = "logical"
    memory: int = 0
    token: str = ""


@dataclass(frozen=True, slots=True)
class ResourceOptions:
    """What was declared instead of found (``--num-cpus``, ``--num-gpus``, ``--resources``).

    Args:
        num_cpus: CPUs, fractions allowed.
        num_gpus: whole GPUs; below the real number it takes the first ones, above it the missing
            ones are logical (they exist for placement only).
        memory: bytes.
        resources: custom resources, name to amount.
    """

    num_cpus: float | None = None
    num_gpus: float | None = None
    memory: int | None = None
    resources: Mapping[str, float] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class NodeResources:
    """What a node offers.

    Args:
        cpus: CPUs, at least 1 where found rather than declared.
        cores: that this process may use at a time, rounded down, at least 1; never declared.
        gpus: in the order in which they are handed out.
        memory: bytes.
        custom: name to amount.
    """

    cpus: float
    gpus: tuple[GPU, ...]
    memory: int
    custom: Mapping[str, float] = field(default_factory=dict, hash=False)
    cores: int = 1


def detect(
    options: ResourceOptions | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    proc: Path = Path("/proc"),
    cgroup: Path = Path("/sys/fs/cgroup"),
) -> NodeResources:
    """Find what this machine has; what the options declare is taken as it is.

    Args:
        options: declared amounts; by default none.
        environ: where CUDA_VISIBLE_DEVICES is looked up.
        proc: the proc file system.
        cgroup: where control groups are mounted.

    Raises:
        ValueError: a declared amount makes no sense, or CUDA_VISIBLE_DEVICES allows fewer GPUs of
            those that exist than `num_gpus` asks for.

    Example:
        >>> detect(ResourceOptions(num_gpus=2)).gpus[1].index  # on a machine without GPUs
        1
    """
    options = options or ResourceOptions()
    cpus, memory = options.num_cpus, options.memory
    custom = {name: _amount(name, value) for name, value in options.resources.items()}
    for name in custom:
        if not name or name in _RESERVED_NAMES:
            raise ValueError(f"{name!r} cannot be the name of a custom resource")
    found = _count_cpus(proc, cgroup)
    return NodeResources(
        cpus=found if cpus is None else _amount("num_cpus", cpus),
        gpus=_gpus(options.num_gpus, environ.get(VISIBLE_DEVICES)),
        memory=_count_memory(proc, cgroup) if memory is None else int(_amount("memory", memory)),
        custom=custom,
        cores=int(found),
    )


def visible_devices(gpus: Iterable[GPU], ids: Sequence[int]) -> str:
    """What CUDA_VISIBLE_DEVICES is to be for a process that was assigned these GPUs.

    The process replaces the variable that it inherited, so the entries are the ones that the node
    worker's own list has: with ``4,5`` there, the second GPU has the id 5 and is named ``5``; what
    was named by UUID stays so named.

    Args:
        gpus: the node's.
        ids: indices of the assigned ones, in order: the first is ``cuda:0``. None: no GPU is seen.

    Raises:
        KeyError: an id that no GPU of the node has.

    Example:
        >>> visible_devices([GPU(4), GPU(5)], [5])
        '5'
    """
    tokens = {gpu.index: gpu.token or str(gpu.index) for gpu in gpus}
    return ",".join(tokens[index] for index in ids)


def _amount(name: str, value: float) -> float:
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{name}={value}: an amount is a finite number, 0 or more")
    return float(value)


# -- GPUs ------------------------------------------------------------------------------------------


def _gpus(declared: float | None, visible: str | None) -> tuple[GPU, ...]:
    if declared is not None:
        if _amount("num_gpus", declared) != int(declared):
            raise ValueError(f"num_gpus={declared}: a node has whole GPUs")
        if declared == 0:
            return ()
    physical = _query_nvml()
    usable = physical if visible is None else _select(physical, visible)
    if declared is None:
        return tuple(usable)
    count = int(declared)
    if count <= len(usable):
        return tuple(usable[:count])
    if physical and visible is not None:
        # Logical ids would stand for GPUs that somebody hid from us on purpose.
        raise ValueError(
            f"num_gpus={count}, but {VISIBLE_DEVICES}={visible!r} leaves {len(usable)} of this"
            f" machine's {len(physical)} GPUs: unset it or ask for fewer"
        )
    if physical:
        logger.warning(
            "num_gpus=%d, but this machine has %d: the rest are logical", count, len(physical)
        )
        taken = {gpu.index for gpu in usable}
        free = (index for index in range(2 * count) if index not in taken)
        return (*usable, *(GPU(next(free)) for _ in range(count - len(usable))))
    # No GPU that we could see. Where CUDA_VISIBLE_DEVICES names some, those are their ids.
    listed = [int(entry) for entry in _entries(visible or "") if entry.isdigit()]
    if listed and len(listed) < count:
        raise ValueError(
            f"num_gpus={count}, but {VISIBLE_DEVICES}={visible!r} names {len(listed)}: unset it or"
            " ask for fewer"
        )
    return tuple(GPU(index) for index in (listed or range(count))[:count])


def _entries(visible: str) -> list[str]:
    """The entries of CUDA_VISIBLE_DEVICES up to the first that can name no device.

    CUDA's rules: the first entry decides whether all are numbers, GPU UUIDs or MIG UUIDs; an
    invalid entry hides itself and all behind it; one that comes twice hides everything.
    """
    if visible.strip() in _HIDE_ALL:
        return []
    entries: list[str] = []
    kind = ""
    for text in visible.split(","):
        entry = text.strip()
        if entry.startswith(("GPU-", "MIG-")):
            of_kind = entry[:4]
        elif entry.isascii() and entry.isdigit():
            of_kind, entry = "number", str(int(entry))
        else:
            break  # "", "-1", words
        kind = kind or of_kind
        if of_kind != kind:
            break
        if entry in entries:
            return []
        entries.append(entry)
    return entries


def _select(physical: Sequence[GPU], visible: str) -> list[GPU]:
    """The GPUs that CUDA_VISIBLE_DEVICES lets through, in its order."""
    chosen: list[GPU] = []
    for place, entry in enumerate(_entries(visible)):
        if entry.startswith("MIG-"):
            found = _query_mig(entry, place)
        elif entry.startswith("GPU-"):
            matches = [gpu for gpu in physical if gpu.uuid.startswith(entry)]
            found = [_named(gpu, entry) for gpu in matches]
        else:
            found = [_named(gpu, "") for gpu in physical if gpu.index == int(entry)]
        if len(found) != 1:  # no such GPU, or an ambiguous prefix
            logger.warning(
                "%s=%r: no GPU is %r; it hides those behind it", VISIBLE_DEVICES, visible, entry
            )
            break
        if found[0].index in (gpu.index for gpu in chosen):
            return []
        chosen.append(found[0])
    return chosen


def _named(gpu: GPU, token: str) -> GPU:
    return GPU(gpu.index, gpu.uuid, gpu.name, gpu.memory, token)


def _query_nvml() -> list[GPU]:
    """All GPUs of the machine in NVML's order; none, and why in the log, where NVML fails."""

    def query(nvml: ModuleType) -> list[GPU]:
        gpus, count = [], nvml.nvmlDeviceGetCount()
        for index in range(count):
            try:
                gpus.append(_describe(nvml, nvml.nvmlDeviceGetHandleByIndex(index), index))
            except nvml.NVMLError as error:
                logger.warning("GPU %d is left out: %s", index, _reason(nvml, error))
        # CUDA may not count those that NVML cannot open, and then numbers differ: UUIDs do not.
        return gpus if len(gpus) == count else [_named(gpu, gpu.uuid) for gpu in gpus]

    return _with_nvml(query)


def _query_mig(uuid: str, place: int) -> list[GPU]:
    def query(nvml: ModuleType) -> list[GPU]:
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid.encode())
        return [_named(_describe(nvml, handle, place), uuid)]

    return _with_nvml(query)


def _describe(nvml: ModuleType, handle: Any, index: int) -> GPU:
    uuid, name = (
        value.decode() if isinstance(value, bytes) else str(value)
        for value in (nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle))
    )
    try:
        memory = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    except nvml.NVMLError_NotSupported:  # GPUs that share the machine's memory
        memory = 0
    return GPU(index, uuid, name, memory)


def _with_nvml(query: Callable[[ModuleType], list[GPU]]) -> list[GPU]:
    try:
        nvml = import_module("pynvml")
    except ImportError as error:
        logger.debug("no GPUs: %s", error)
        return []
    try:
        nvml.nvmlInit()
        try:
            return query(nvml)
        finally:
            nvml.nvmlShutdown()
    except nvml.NVMLError_LibraryNotFound:
        logger.debug("no GPUs: the NVML library is not installed")
    except nvml.NVMLError as error:
        logger.warning("no GPUs: NVML fails with %s", _reason(nvml, error))
    return []


def _reason(nvml: ModuleType, error: Any) -> str:
    """Name, number and text of an NVML error: ``NVML_ERROR_DRIVER_NOT_LOADED (9): Driver…``."""
    names = (name for name in dir(nvml) if name.startswith("NVML_ERROR_"))
    named = next((name for name in names if getattr(nvml, name) == error.value), "NVML error")
    return f"{named} ({error.value}): {error}"


# -- CPUs and memory -------------------------------------------------------------------------------


def _count_cpus(proc: Path, cgroup: Path) -> float:
    """CPUs of this process's affinity mask, or its control group's quota where that is less."""
    limits = [float(len(os.sched_getaffinity(0)))]
    for group in _groups(proc, cgroup, "cpu"):
        quota, _, period = _text(group / "cpu.max").partition(" ")  # version 2
        if not quota:
            quota, period = _text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):  # else "max" or -1
            limits.append(int(quota) / int(period))
    # A task asks for one CPU by default: on less than one, none would ever run.
    return max(1.0, min(limits))


def _count_memory(proc: Path, cgroup: Path) -> int:
    """Bytes of the machine's memory, or its control group's limit where that is less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for group in _groups(proc, cgroup, "memory"):
        limit = _text(group / "memory.max") or _text(group / "memory.limit_in_bytes")
        if limit.isdigit():
            limits.append(int(limit))
    return min(limits)


def _groups(proc: Path, cgroup: Path, controller: str) -> list[Path]:
    """Folders of the control groups that bind this process: its own and those above it.

    In a container the path may be the host's, of which only the root is mounted: folders that do
    not exist say nothing.
    """
    folders: list[Path] = []
    for line in _text(proc / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2, alone or beside version 1
            roots = [cgroup, cgroup / "unified"]
        elif controller in controllers.split(","):
            roots = [cgroup / controllers, cgroup / controller]
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for root in roots:
            folders += [root.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]
    return folders


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
