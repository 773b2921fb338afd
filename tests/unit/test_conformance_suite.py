"""The conformance suite: enough cases, each with a promise; programs; how results are sorted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conformance.case import Case
from conformance.catalog import cases_of, program_text, programs, subjects
from conformance.compare import compare
from conformance.implementations import RAY

ALL = [one for subject in subjects() for one in cases_of(subject)]


def test_there_are_enough_cases_each_with_an_id_and_a_promise_of_its_own() -> None:
    assert len(ALL) >= 250
    assert len({one.id for one in ALL}) == len(ALL)
    assert len({one.promise for one in ALL}) == len(ALL)
    for one in ALL:
        assert one.promise.strip() == one.promise
        assert 20 <= len(one.promise) <= 110, one.id
        assert "\n" not in one.promise


def test_what_is_better_is_said_and_checked() -> None:
    for one in ALL:
        assert (one.better is None) == (one.stronger is None), one.id
        assert one.better is None or one.better.endswith("."), one.id
    assert any(one.better for one in ALL)


def test_the_control_is_one_version_of_ray() -> None:
    assert any(requirement.endswith("==2.60.0") for requirement in RAY.requirements)


@pytest.mark.parametrize("path", programs(), ids=lambda path: path.stem)
def test_a_program_differs_between_both_by_its_import_only(path: Path) -> None:
    theirs = program_text(path, "ray").splitlines()
    ours = program_text(path, "celery_actors").splitlines()
    assert theirs == path.read_text().splitlines()
    changed = [(a, b) for a, b in zip(theirs, ours, strict=True) if a != b]
    assert [b for a, b in changed if a == "import ray"] == ["import celery_actors as ray"]
    assert all(a == "import ray" or a.startswith("from ray.") for a, _ in changed)
    compile("\n".join(ours), path.name, "exec")
    assert path.with_suffix(".out").read_text()


def test_the_programs_are_those_of_the_seed_document_and_ten_more() -> None:
    names = [path.stem for path in programs()]
    seeds = [name for name in names if name.startswith("seed_")]
    assert len(seeds) >= 4
    assert len(names) - len(seeds) >= 10


def _check(_ray: object) -> None: ...


def _result(outcome: str, stronger: str | None = None) -> dict[str, Any]:
    result: dict[str, Any] = {"outcome": outcome, "detail": f"it was {outcome}", "seconds": 0.1}
    if stronger is not None:
        result["stronger"] = {"outcome": stronger, "detail": "", "seconds": 0.1}
    return result


@pytest.mark.parametrize(
    ("options", "on_ray", "on_ours", "expected"),
    [
        ({}, _result("pass"), _result("pass"), "agree"),
        ({}, _result("pass"), _result("fail"), "worse"),
        ({}, _result("pass"), _result("timeout"), "worse"),
        ({}, _result("fail"), _result("fail"), "neither"),
        ({}, _result("fail"), _result("pass"), "neither"),  # is it a promise of Ray at all?
        ({"deviates": "does not"}, _result("fail"), _result("pass"), "better"),
        ({"deviates": "does not"}, _result("pass"), _result("pass"), "agree"),
        ({"better": "More."}, _result("pass", "fail"), _result("pass", "pass"), "better"),
        ({"better": "More."}, _result("pass", "pass"), _result("pass", "pass"), "agree"),
        ({"better": "More."}, _result("pass", "fail"), _result("pass", "fail"), "worse"),
        ({}, None, _result("pass"), "missing"),
    ],
)
def test_results_are_sorted_into_the_lists(
    options: dict[str, Any],
    on_ray: dict[str, Any] | None,
    on_ours: dict[str, Any],
    expected: str,
) -> None:
    one = Case("subject", "name", "A promise", _check, **options)
    if one.better:
        one.stronger = _check
    ray = {} if on_ray is None else {one.id: on_ray}
    found = compare([one], [], ray, {one.id: on_ours})
    lists = ("agree", "better", "worse", "neither", "missing")
    assert [name for name in lists if getattr(found, name)] == [expected]


def test_what_is_worse_is_accepted_with_an_argument_only() -> None:
    for argument, accepted in ((None, False), ("Argued.", True)):
        one = Case("subject", "name", "A promise", _check, worse=argument)
        found = compare([one], [], {one.id: _result("pass")}, {one.id: _result("fail")})
        assert found.accepted is accepted
        assert "it was fail" in found.worse[0].detail
        assert "| worse here | 1 |" in found.markdown({"Ray": "1 s"})
