"""The types of what fixtures give to tests.

Tests' classes and functions go to actors by the names of their modules, which the actors import.
So nothing that a test module imports may have a name of which there are several, as ``conftest``.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable

RunScript = Callable[..., "subprocess.CompletedProcess[str]"]
StartNode = Callable[..., "subprocess.Popen[bytes]"]
