"""What all tests share: none of them may see the clusters of the machine they run on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

_VARIABLES = (
    "CELERY_BROKER_URL",
    "CELERY_RESULT_BACKEND",
    "CELERY_ACTORS_KEY_FILE",
    "CELERY_ACTORS_SESSION_DIR",
)


@pytest.fixture(scope="session", autouse=True)
def _no_cluster_from_the_environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for variable in _VARIABLES:
            patch.delenv(variable, raising=False)
        yield
