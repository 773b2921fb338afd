"""The public-style programs of the conformance suite, each as its user runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixture_types import RunScript, StartNode
from waiting import wait_until

import celery_actors
from celery_actors.session import SessionInfo
from conformance.catalog import program_text, programs

# One that describes its cluster in init() gets one of its own, which takes longer: they run in
# `make conformance`.
SHARED = [path for path in programs() if "ray.init()" in path.read_text()]


@pytest.fixture(scope="module", autouse=True)
def node(driver: SessionInfo, start_node: StartNode) -> None:
    start_node("programs", num_cpus=4)
    wait_until(celery_actors.nodes, "the node")


@pytest.mark.parametrize("path", SHARED, ids=lambda path: path.stem)
def test_program(path: Path, run_script: RunScript) -> None:
    text = program_text(path, "celery_actors")
    assert run_script(text).stdout == path.with_suffix(".out").read_text()
