"""Which modules go by name, and where a program looks for its own."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import cloudpickle
import pytest

from celery_actors import modules
from celery_actors.modules import LIBRARIES, own_paths, travels_by_value, use_paths


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of the user's on `sys.path`; modules of it are forgotten at the end."""
    before = set(sys.modules)
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.syspath_prepend(str(root))
    modules.forget_decisions()
    yield root
    for name in set(sys.modules) - before:
        del sys.modules[name]
    modules.forget_decisions()


def written(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    importlib.invalidate_caches()


def test_installed_modules_go_by_name() -> None:
    for name in ("json", "sys", "numpy", "celery_actors.handle", "builtins", __name__):
        importlib.import_module(name)
        assert not travels_by_value(name), name


def test_programs_and_modules_that_nobody_has_imported_go_by_value() -> None:
    for name in ("__main__", "__mp_main__", "no_such_module", None):
        assert travels_by_value(name), name


def test_a_users_module_goes_by_name(folder: Path) -> None:
    written(folder, "own_one.py", "own_pack/__init__.py", "own_pack/inner.py", "own_space/part.py")
    for name in ("own_one", "own_pack", "own_pack.inner", "own_space", "own_space.part"):
        importlib.import_module(name)
        assert not travels_by_value(name), name


def test_a_module_that_was_made_at_run_time_goes_by_value(folder: Path) -> None:
    made = ModuleType("made_one")
    sys.modules["made_one"] = made
    assert travels_by_value("made_one")
    (folder / "made_two").mkdir()  # to an import a namespace package; the module is none
    sys.modules["made_two"] = ModuleType("made_two")
    assert travels_by_value("made_two")


def test_a_module_from_a_file_that_is_on_no_path_goes_by_value(
    folder: Path, tmp_path: Path
) -> None:
    written(tmp_path, "elsewhere.py")
    written(folder, "shadowed.py")
    for name in ("elsewhere", "shadowed"):
        spec = importlib.util.spec_from_file_location(name, tmp_path / "elsewhere.py")
        assert spec is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        assert travels_by_value(name), name


def test_a_module_whose_file_is_gone_goes_by_value(folder: Path) -> None:
    written(folder, "gone_one.py")
    importlib.import_module("gone_one")
    (folder / "gone_one.py").unlink()
    importlib.invalidate_caches()
    assert travels_by_value("gone_one")


def test_a_modules_way_is_decided_once_a_job(folder: Path) -> None:
    written(folder, "decided_one.py")
    importlib.import_module("decided_one")
    assert not travels_by_value("decided_one")
    (folder / "decided_one.py").unlink()
    importlib.invalidate_caches()
    assert not travels_by_value("decided_one")
    modules.forget_decisions()
    assert travels_by_value("decided_one")


def test_a_module_that_the_user_has_registered_with_cloudpickle_goes_by_value(
    folder: Path,
) -> None:
    written(folder, "registered_pack/__init__.py", "registered_pack/inner.py")
    importlib.import_module("registered_pack.inner")
    package = sys.modules["registered_pack"]
    cloudpickle.register_pickle_by_value(package)
    try:
        assert travels_by_value("registered_pack.inner")
    finally:
        cloudpickle.unregister_pickle_by_value(package)


def test_packages_count_as_installed_wherever_a_tool_has_put_them(folder: Path) -> None:
    written(folder, "target_pack/__init__.py")
    package = importlib.import_module("target_pack")
    assert not modules.is_library(package)
    (folder / "target_pack-1.0.dist-info").mkdir()
    modules.is_library_path.cache_clear()
    assert modules.is_library(package)
    modules.is_library_path.cache_clear()


def test_a_programs_paths_keep_their_order_around_the_interpreters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, last = tmp_path / "first", tmp_path / "last"
    first.mkdir()
    last.mkdir()
    library = str(Path(os.__file__).parent)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(first), "/no/such/directory", library, str(last)])
    paths = own_paths(str(tmp_path), str(first))
    assert paths == (str(first), LIBRARIES, str(last), str(tmp_path))
    assert own_paths() == paths[:-1]
    monkeypatch.setattr(sys, "path", [library, str(last)])
    use_paths(paths)
    assert sys.path == [str(first), library, str(last), str(tmp_path)]


def test_an_empty_entry_is_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(Path(os.__file__).parent)])
    assert own_paths() == (str(tmp_path), LIBRARIES)


def test_a_current_directory_that_was_removed_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "removed").mkdir()
    monkeypatch.chdir(tmp_path / "removed")
    (tmp_path / "removed").rmdir()
    monkeypatch.setattr(sys, "path", ["", str(tmp_path)])
    assert own_paths() == (str(tmp_path), LIBRARIES)
