"""An environment as it travels: local files are named by the packages that hold them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

__all__ = ["NO_ENVIRONMENT", "Environment", "package_digest", "package_uri"]

_DEFAULT_TIMEOUT = 600.0
_URI = re.compile(r"package://([0-9a-f]{32})\.zip")


@dataclass(frozen=True, slots=True)
class Environment:
    """What a process of an actor or of tasks is to find; part of its signed creation.

    :ivar env_vars: names and values, in the order in which they are set.
    :ivar working_dir: digest of the package that becomes the current directory.
    :ivar py_modules: digests of packages that go onto ``sys.path``.
    :ivar py_executable: the command that runs Python; empty: the node's own interpreter.
    :ivar setup_timeout: seconds that setting it up may take; negative: no bound.
    :ivar logging: the job's ``LoggingConfig`` as JSON; empty: logging stays as it is.
    """

    env_vars: tuple[tuple[str, str], ...] = ()
    working_dir: str = ""
    py_modules: tuple[str, ...] = ()
    py_executable: str = ""
    setup_timeout: float = _DEFAULT_TIMEOUT
    logging: str = ""

    def __bool__(self) -> bool:
        """Whether there is anything to set up before the process knows its user's code."""
        return bool(self.env_vars or self.working_dir or self.py_modules or self.py_executable)

    def as_runtime_env(self) -> dict[str, Any]:
        """Return it in the form in which users write it; packages as URIs."""
        found: dict[str, Any] = {}
        if self.env_vars:
            found["env_vars"] = dict(self.env_vars)
        if self.working_dir:
            found["working_dir"] = package_uri(self.working_dir)
        if self.py_modules:
            found["py_modules"] = [package_uri(digest) for digest in self.py_modules]
        if self.py_executable:
            found["py_executable"] = self.py_executable
        if self.setup_timeout != _DEFAULT_TIMEOUT:
            found["config"] = {"setup_timeout_seconds": self.setup_timeout}
        return found


NO_ENVIRONMENT = Environment()


def package_uri(digest: str) -> str:
    """Return the name under which users see a package."""
    return f"package://{digest}.zip"


def package_digest(uri: str) -> str | None:
    """Return the digest of the package that a URI names; None: it names none."""
    found = _URI.fullmatch(uri)
    return found[1] if found else None
