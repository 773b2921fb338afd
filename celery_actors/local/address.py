"""How a process reaches a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from celery_actors.local.session import shared_memory_of

BROKER_VARIABLE = "CELERY_BROKER_URL"
BACKEND_VARIABLE = "CELERY_RESULT_BACKEND"
KEY_FILE_VARIABLE = "CELERY_ACTORS_KEY_FILE"
SHARED_MEMORY_VARIABLE = "CELERY_ACTORS_SHARED_MEMORY_DIR"
SESSION_DIR_VARIABLE = "CELERY_ACTORS_SESSION_DIR"


@dataclass(frozen=True, slots=True)
class ClusterAddress:
    """The two servers, the file with the cluster's secret and, for a local one, its directory."""

    broker_url: str
    result_backend: str
    key_file: Path
    session_dir: Path | None = None

    @property
    def shared_memory_dir(self) -> Path | None:
        """Where a local cluster's processes put large values."""
        return None if self.session_dir is None else shared_memory_of(self.session_dir)

    def environment(self) -> dict[str, str]:
        """The variables by which a child process finds this cluster."""
        variables = {
            BROKER_VARIABLE: self.broker_url,
            BACKEND_VARIABLE: self.result_backend,
            KEY_FILE_VARIABLE: str(self.key_file),
        }
        if self.session_dir is not None:
            variables[SESSION_DIR_VARIABLE] = str(self.session_dir)
        if self.shared_memory_dir is not None:
            variables[SHARED_MEMORY_VARIABLE] = str(self.shared_memory_dir)
        return variables

    def __repr__(self) -> str:
        # The URLs hold passwords, and reprs end in logs.
        where = self.session_dir if self.session_dir is not None else "remote"
        return f"<ClusterAddress {where}>"
