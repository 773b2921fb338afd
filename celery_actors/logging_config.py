"""How the processes of a job log: given to ``init(logging_config=…)``, as Ray's."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any

__all__ = ["LoggingConfig"]

_ENCODINGS = ("TEXT", "JSON")
_STANDARD = frozenset(vars(logging.makeLogRecord({})))


@dataclass(frozen=True)
class LoggingConfig:
    """How the root logger of this program writes.

    Attributes:
        encoding: ``"TEXT"`` or ``"JSON"``, one object a line.
        log_level: The least level that is written.
        additional_log_standard_attrs: Names of standard attributes of log records that are
            written as well, e.g. ``["name"]``.

    Raises:
        ValueError: The encoding is unknown, or there is no such attribute.

    Example:
        >>> ray.init(logging_config=ray.LoggingConfig(encoding="JSON", log_level="INFO"))
    """

    encoding: str = "TEXT"
    log_level: str = "INFO"
    additional_log_standard_attrs: Set[str] | list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.encoding not in _ENCODINGS:
            raise ValueError(f"encoding must be one of {_ENCODINGS}, not {self.encoding!r}")
        unknown = set(self.additional_log_standard_attrs) - _STANDARD
        if unknown:
            raise ValueError(f"log records have no attribute {sorted(unknown)}")

    def apply(self) -> None:
        """Configure this process's root logger."""
        root = logging.getLogger()
        handler = logging.StreamHandler()
        extra = tuple(sorted(self.additional_log_standard_attrs))
        handler.setFormatter(_Formatter(extra) if self.encoding == "JSON" else _text(extra))
        root.handlers[:] = [handler]
        root.setLevel(self.log_level)


def _text(extra: tuple[str, ...]) -> logging.Formatter:
    more = "".join(f" {name}=%({name})s" for name in extra)
    return logging.Formatter(
        f"%(asctime)s\t%(levelname)s %(filename)s:%(lineno)s -- %(message)s{more}"
    )


class _Formatter(logging.Formatter):
    """One JSON object a line, with what ``extra=`` gave the record."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self._names = names

    def format(self, record: logging.LogRecord) -> str:
        given: Mapping[str, Any] = vars(record)
        line = {
            "asctime": self.formatTime(record),
            "levelname": record.levelname,
            "message": record.getMessage(),
            "filename": record.filename,
            "lineno": record.lineno,
            **{name: given.get(name) for name in self._names},
            **{name: value for name, value in given.items() if name not in _STANDARD},
        }
        if record.exc_info:
            line["exc_text"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
