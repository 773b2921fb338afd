"""Faults for real: the fixtures of the integration tests, and a cluster whose servers may die."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_actors.client import outbox as outbox_module

_INTEGRATION = Path(__file__).parents[1] / "integration"
sys.path.insert(0, str(_INTEGRATION))
_spec = importlib.util.spec_from_file_location("integration_fixtures", _INTEGRATION / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_shared = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_shared)

brokers = _shared.brokers
nothing_left = _shared.nothing_left
start_node = _shared.start_node
driver = _shared.driver
cluster = _shared.cluster


@pytest.fixture
def told_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process looks at nothing by itself for want of progress: what it learns it was told."""
    monkeypatch.setattr(outbox_module, "_RESEND_UNKNOWN", 1000.0)
    monkeypatch.setattr(outbox_module, "_RESEND_FIRST", 1000.0)


@pytest.fixture
def mortal() -> Iterator[object]:
    """A cluster of its own with a node worker: its servers may be killed."""
    from waiting import wait_until

    import celery_actors
    from celery_actors.local import NodeOptions, PrivateCluster

    with PrivateCluster.start(NodeOptions(num_cpus=4)) as local:
        celery_actors.init(local.address, log_to_driver=False)
        try:
            wait_until(celery_actors.nodes, "the node of the private cluster")
            yield local
        finally:
            celery_actors.shutdown()
