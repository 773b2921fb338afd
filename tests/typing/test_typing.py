"""What type checkers say of programs that use the package.

Each program in ``programs`` names in its first line the checkers that it is for.  ``assert_type``
holds what is right; of a line with the comment ``# error`` the checker must complain, and of no
other (``# error: mypy``: only mypy sees it).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from mypy import api as mypy_api

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"
PYRIGHT, MYPY, BARE_MYPY = "pyright", "mypy", "mypy without its plugin"


def programs_for(checker: str) -> list[str]:
    """The programs whose first line names the checker."""
    named = {
        path.name: path.read_text().splitlines()[0].removeprefix("# checkers: ").split(", ")
        for path in sorted(PROGRAMS.glob("*.py"))
    }
    assert set().union(*map(set, named.values())) == {PYRIGHT, MYPY, BARE_MYPY}
    return [name for name, checkers in named.items() if checker in checkers]


def expected_errors(name: str, checker: str) -> set[int]:
    lines = (PROGRAMS / name).read_text().splitlines()
    marks = {n: re.search(r"# error(?:: (\w+))?", line) for n, line in enumerate(lines, 1)}
    return {number for number, mark in marks.items() if mark and mark[1] in (None, checker)}


@cache
def mypy_errors(plugin: bool, cache_folder: Path) -> dict[str, dict[int, str]]:
    """mypy's errors by program and line."""
    config = cache_folder / "mypy.ini"
    plugins = "plugins = celery_actors.mypy_plugin\n" if plugin else ""
    config.write_text(f"[mypy]\nstrict = true\nfollow_imports = silent\n{plugins}")
    names = programs_for(MYPY if plugin else BARE_MYPY)
    out, problem, _ = mypy_api.run(
        [
            *("--config-file", str(config), "--cache-dir", str(cache_folder / "cache")),
            *("--python-version", "3.10", "--no-error-summary", "--hide-error-context"),
            *(str(PROGRAMS / name) for name in names),
        ]
    )
    assert not problem, problem
    errors: dict[str, dict[int, str]] = {name: {} for name in names}
    for line in out.splitlines():
        found = re.match(r"(?P<path>.*?):(?P<line>\d+): (?P<kind>error|note): (?P<text>.*)", line)
        assert found, line
        if found["kind"] == "error":
            errors[Path(found["path"]).name][int(found["line"])] = found["text"]
    return errors


@cache
def pyright_errors(folder: Path) -> dict[str, dict[int, str]]:
    """pyright's errors by program and line: by basedpyright, which brings all that it needs."""
    names = programs_for(PYRIGHT)
    config = folder / "pyrightconfig.json"
    config.write_text(
        json.dumps(
            {
                "include": [os.path.relpath(PROGRAMS / name, folder) for name in names],
                "extraPaths": [str(ROOT)],
                "typeCheckingMode": "standard",
                "pythonVersion": "3.10",
            }
        )
    )
    ran = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--outputjson", "-p", str(config)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    report = json.loads(ran.stdout)
    assert report["summary"]["filesAnalyzed"] == len(names), ran.stdout
    errors: dict[str, dict[int, str]] = {name: {} for name in names}
    for found in report["generalDiagnostics"]:
        if found["severity"] == "error":
            place = errors[Path(found["file"]).name]
            place[found["range"]["start"]["line"] + 1] = found["message"]
    return errors


def check(name: str, checker: str, found: dict[int, str]) -> None:
    expected = expected_errors(name, checker)
    unexpected = {line: text for line, text in found.items() if line not in expected}
    assert not unexpected, f"{name}: {unexpected}"
    missed = expected - set(found)
    assert not missed, f"{name}: no complaint about the lines {sorted(missed)}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkers")


@pytest.mark.parametrize("name", programs_for(MYPY))
def test_mypy(name: str, folder: Path) -> None:
    check(name, MYPY, mypy_errors(True, folder)[name])


@pytest.mark.parametrize("name", programs_for(BARE_MYPY))
def test_mypy_without_its_plugin(name: str, folder: Path) -> None:
    check(name, BARE_MYPY, mypy_errors(False, folder)[name])


@pytest.mark.parametrize("name", programs_for(PYRIGHT))
def test_pyright(name: str, folder: Path) -> None:
    check(name, PYRIGHT, pyright_errors(folder)[name])


def test_mypy_knows_classes_of_modules_that_it_has_cached(tmp_path: Path) -> None:
    library = tmp_path / "library.py"
    library.write_text(
        "from collections.abc import Iterable\n"
        "import celery_actors as ray\n"
        "@ray.remote\n"
        "class Counter:\n"
        "    def __init__(self, start: int) -> None: ...\n"
        "    def add(self, by: int) -> int: return by\n"
        "    @ray.method(num_returns=2)\n"
        "    def pair(self) -> tuple[int, int]: return 1, 2\n"
        "    def each(self) -> Iterable[int]: yield 1\n"
        "@ray.remote\n"
        "def each() -> Iterable[int]: yield 1\n"
    )
    user = tmp_path / "user.py"
    user.write_text(
        "from library import Counter, each\n"
        "counter = Counter.remote(1)\n"
        "reveal_type(counter.add.remote(1))\n"
        "reveal_type(counter.pair.remote())\n"
        "reveal_type(counter.each.remote())\n"
        "reveal_type(each.remote())\n"
        "Counter.remote('a')\n"
        "Counter.options(num_cpus=1).remote('a')\n"
        "counter.ad.remote(1)\n"
        "Counter(1)\n"
    )
    config = tmp_path / "mypy.ini"
    config.write_text(
        "[mypy]\nfollow_imports = silent\nplugins = celery_actors.mypy_plugin\n"
        f"mypy_path = {tmp_path}\n"
    )
    options = ["--config-file", str(config), "--cache-dir", str(tmp_path / "cache")]
    out, problem, status = mypy_api.run([*options, str(library)])
    assert status == 0, out + problem
    out, problem, status = mypy_api.run([*options, str(user)])
    assert status == 1, problem
    said = [
        line.split(": ", 2)[2].replace("celery_actors.", "").replace("builtins.", "")
        for line in out.splitlines()[:-1]
    ]
    assert said == [
        'Revealed type is "refs.ObjectRef[int]"',
        'Revealed type is "list[refs.ObjectRef[Any]]"',
        'Revealed type is "generators.ObjectRefGenerator[int]"',
        'Revealed type is "generators.ObjectRefGenerator[int]"',
        'Argument 1 to "remote" of "ActorClass" has incompatible type "str"; '
        'expected "int | ObjectRef[int]"  [arg-type]',
        'Argument 1 to "remote" of "ActorClass" has incompatible type "str"; '
        'expected "int | ObjectRef[int]"  [arg-type]',
        'Actor "Counter" has no remote method "ad"  [attr-defined]',
        '"Counter" is an actor class and can\'t be instantiated here: use Counter.remote(…)  '
        "[call-arg]",
    ]
