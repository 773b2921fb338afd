"""``make conformance``: every case and program on Ray and on this package, and the comparison.

    python -m conformance [--implementation ray] [--only handles,kill_and_cancel] [-k text]

Without options everything runs on both.  A part that runs again replaces its results of the last
time; the comparison is of what is there.  Status 1: something is worse here without an argument.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from conformance.case import Case
from conformance.catalog import cases_of, programs, subjects
from conformance.compare import Comparison, compare
from conformance.implementations import IMPLEMENTATIONS, Implementation, clean_environment
from conformance.runner import run_cases, run_program

RESULTS = Path(__file__).resolve().parent / "results"
_PROGRAMS = "programs"


def main() -> int:
    """Run, compare, write."""
    options = _options()
    RESULTS.mkdir(exist_ok=True)
    chosen = [
        one
        for subject in options.only
        if subject != _PROGRAMS
        for one in cases_of(subject)
        if options.k in one.id
    ]
    paths = [path for path in programs() if options.k in f"{_PROGRAMS}.{path.stem}"]
    paths = paths if _PROGRAMS in options.only else []
    if options.list:
        for one in chosen:
            print(f"{one.id}: {one.promise}")
        return 0
    whole = options.only == [*subjects(), _PROGRAMS] and not options.k
    for implementation in IMPLEMENTATIONS:
        if options.implementation in (None, implementation.name):
            _run(implementation, chosen, paths, whole=whole)
    results = {one.name: _stored(one) for one in IMPLEMENTATIONS}
    everything = [one for subject in subjects() for one in cases_of(subject)]
    names = [path.stem for path in programs()]
    found = compare(everything, names, results["ray"]["cases"], results["ours"]["cases"])
    _write(found, results)
    return 0 if found.accepted else 1


def _options() -> argparse.Namespace:
    known = [*subjects(), _PROGRAMS]

    def some(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",")]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"no such subject: {', '.join(unknown)}")
        return names

    parser = argparse.ArgumentParser(
        prog="conformance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--implementation", choices=[one.name for one in IMPLEMENTATIONS])
    parser.add_argument(
        "--only", type=some, default=known, metavar="SUBJECTS", help=f"of {', '.join(known)}"
    )
    parser.add_argument("-k", default="", metavar="TEXT", help="only cases with this in their id")
    parser.add_argument("--list", action="store_true", help="show the cases and run nothing")
    return parser.parse_args()


def _run(
    implementation: Implementation, cases: Sequence[Case], paths: Sequence[Path], *, whole: bool
) -> None:
    """Run the cases and programs on one implementation; its results are written as they come."""
    log = RESULTS / f"{implementation.name}.log"
    log.write_bytes(b"")
    results = _nothing(implementation) if whole else _stored(implementation)
    begun = time.monotonic()

    def report(case_id: str, result: dict[str, Any]) -> None:
        results["cases"][case_id] = result
        stronger = result.get("stronger")
        words = result["outcome"] + (f", stronger: {stronger['outcome']}" if stronger else "")
        print(f"{implementation.name} {case_id}: {words} ({result['seconds']:.1f} s)", flush=True)
        _path(implementation).write_text(json.dumps(results, indent=1) + "\n")

    shared = any("ray.init()" in path.read_text(encoding="utf-8") for path in paths)
    needed: AbstractContextManager[dict[str, str]] = nullcontext({})
    if cases or shared:
        needed = implementation.cluster(log)
    with needed as environment:
        for subject in dict.fromkeys(one.subject for one in cases):
            of_subject = [one for one in cases if one.subject == subject]
            run_cases(implementation, of_subject, environment, log, report)
        for path in paths:
            # One that says what its cluster is like gets one of its own.
            own = "ray.init()" not in path.read_text(encoding="utf-8")
            where = clean_environment() if own else environment
            report(f"{_PROGRAMS}.{path.stem}", run_program(implementation, path, where))
    results["seconds"] = round(time.monotonic() - begun, 1)
    _path(implementation).write_text(json.dumps(results, indent=1) + "\n")


def _path(implementation: Implementation) -> Path:
    return RESULTS / f"{implementation.name}.json"


def _stored(implementation: Implementation) -> dict[str, Any]:
    path = _path(implementation)
    if not path.exists():
        return _nothing(implementation)
    stored: dict[str, Any] = json.loads(path.read_text())
    return stored


def _nothing(implementation: Implementation) -> dict[str, Any]:
    return {"title": implementation.title, "seconds": 0.0, "cases": {}}


def _write(found: Comparison, results: dict[str, dict[str, Any]]) -> None:
    titles = {one["title"]: f"{one['seconds']:.0f} s" for one in results.values()}
    (RESULTS / "report.json").write_text(json.dumps(asdict(found), indent=1) + "\n")
    (RESULTS / "report.md").write_text(found.markdown(titles))
    for title, lines in (("worse", found.worse), ("neither", found.neither)):
        for line in lines:
            print(f"\n{title}: {line.id}: {line.promise}")
            print("  " + (line.why or line.detail).replace("\n", "\n  "))
    print(
        f"\n{len(found.agree)} agree, {len(found.better)} better here on purpose, "
        f"{len(found.worse)} worse here"
        + (f", {len(found.neither)} kept by neither" if found.neither else "")
        + (f", {len(found.missing)} not run on both" if found.missing else "")
    )


if __name__ == "__main__":
    raise SystemExit(main())
