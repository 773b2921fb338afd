"""The wheel alone, with exactly what it declares: every module of the package can be imported."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 600
OLDEST = (3, 10)  # requires-python

IMPORT_ALL = """
import ast, importlib, pkgutil, re, sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path
import celery_actors

assert "site-packages" in celery_actors.__file__, celery_actors.__file__
names = [m.name for m in pkgutil.walk_packages(celery_actors.__path__, "celery_actors.")]
for name in names:
    if not name.endswith("__main__") and name not in sys.argv[1:]:
        importlib.import_module(name)

# What comes along with something else may go with it: each import is declared.
imported = set()
for path in Path(celery_actors.__file__).parent.rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            imported.add(node.module.partition(".")[0])
normal = lambda name: re.split("[^a-z0-9-]", re.sub("[-_.]+", "-", name.lower()))[0]
lines = [line for line in requires("celery-actors") if "extra ==" not in line]
declared = {normal(line) for line in lines}
declared |= {line.partition("[")[2].partition("]")[0] for line in lines}  # redis[hiredis]
provided = packages_distributions()
for name in sorted(imported - sys.stdlib_module_names - {"celery_actors"}):
    if name in provided:  # else it is optional, and was imported above without
        assert {normal(each) for each in provided[name]} & declared, f"{name} is not declared"
print(len(names))
"""
# A plugin for mypy, which brings mypy itself along.
_FOR_TOOLS = ["celery_actors.mypy_plugin"]


def interpreters() -> list[str]:
    """This interpreter, and the oldest and the newest of those installed here that it supports."""
    found: dict[tuple[int, int], str] = {sys.version_info[:2]: sys.executable}
    places = [Path(p) for p in os.environ.get("PATH", "").split(os.pathsep) if p]
    places += sorted(Path("~/.pyenv/versions").expanduser().glob("*/bin"))
    for folder in places:
        for program in folder.glob("python3.*"):
            version = re.fullmatch(r"python3\.(\d+)", program.name)
            if version and os.access(program, os.X_OK) and _runs(program, int(version[1])):
                found.setdefault((3, int(version[1])), str(program))
    supported = sorted(version for version in found if version >= OLDEST)
    chosen = {supported[0], sys.version_info[:2], supported[-1]}
    return [found[version] for version in sorted(chosen)]


def _runs(program: Path, minor: int) -> bool:
    """Whether it is an interpreter with the means to make a virtual environment."""
    code = f"import sys, venv; sys.exit(sys.version_info[:2] != (3, {minor}))"
    return not subprocess.run(
        [str(program), "-c", code], check=False, capture_output=True
    ).returncode


def run(command: Sequence[str | Path], folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # the build leaves folders beside the sources
    shutil.copytree(ROOT / "celery_actors", source / "celery_actors")
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    run([sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", folder, source], folder)
    yield next(folder.glob("*.whl"))
    shutil.rmtree(folder)


@pytest.mark.timeout(SECONDS * 3)
@pytest.mark.parametrize("python", interpreters())
def test_the_wheel_alone_has_all_it_needs(python: str, wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    # Without pip, and the setuptools that older ones bring: neither is declared.
    run([python, "-m", "venv", "--without-pip", environment], tmp_path)
    inside = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", inside]
    # Not compiled: of most modules of the others nothing is imported.
    run([*pip, "install", "--no-cache-dir", "--no-compile", wheel], tmp_path)
    modules = int(run([inside, "-c", IMPORT_ALL, *_FOR_TOOLS], tmp_path))
    assert modules > 100
    run([environment / "bin" / "celery-actors", "--help"], tmp_path)
    shutil.rmtree(environment)
