"""How the processes of a job log: given to ``init(logging_config=…)``, as Ray's."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

__all__ = ["LoggingConfig"]

_ENCODINGS = ("TEXT", "JSON")
_STANDARD = frozenset({*vars(logging.makeLogRecord({})), "asctime", "message", "taskName"})
_ALWAYS = ("asctime", "levelname", "message", "filename", "lineno", "process")
_LINE = "%(asctime)s\t%(levelname)s %(filename)s:%(lineno)s -- %(message)s"


@dataclass(frozen=True)
class LoggingConfig:
    """How the root loggers of a job's processes write: of its driver, actors and tasks.

    Every line also says where it was written, in the names of
    :class:`~celery_actors.runtime_context.RuntimeContext`: ``job_id``, ``worker_id``, ``node_id``
    and, in actors and tasks, ``actor_id``, ``actor_name``, ``task_id``, ``task_name`` and
    ``task_func_name``, and when (``timestamp_ns``).  What ``extra=`` gives a record is written too.

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
    log_level: str | int = "INFO"
    additional_log_standard_attrs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.encoding not in _ENCODINGS:
            raise ValueError(f"encoding must be one of {_ENCODINGS}, not {self.encoding!r}")
        unknown = set(self.additional_log_standard_attrs) - _STANDARD
        if unknown:
            raise ValueError(f"log records have no attribute {sorted(unknown)}")

    def to_dict(self) -> dict[str, Any]:
        """Return its fields, as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> LoggingConfig:
        """Return what :meth:`to_dict` told of; names that are not known count as absent."""
        known = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in given.items() if name in known})

    def as_json(self) -> str:
        """Return it as it travels to the job's actors."""
        plain = {
            # A number: the name of a level that this program has added is not known there.
            "log_level": logging.Handler(self.log_level).level,
            "additional_log_standard_attrs": list(self.additional_log_standard_attrs),
        }
        return json.dumps({**self.to_dict(), **plain})

    @classmethod
    def of_json(cls, text: str) -> LoggingConfig:
        """Return what :meth:`as_json` wrote."""
        return cls.from_dict(json.loads(text))

    def apply(self, where: Callable[[], Mapping[str, object]]) -> None:
        """Have this process's root logger write so, besides what it has already.

        :param where: returns what is added to each record: where it was written.
        """

        def tell_where(record: logging.LogRecord) -> bool:
            vars(record).update(where())
            return True

        handler = _Handler()
        handler.setLevel(self.log_level)
        handler.addFilter(tell_where)
        kind = _Json if self.encoding == "JSON" else _Text
        handler.setFormatter(kind(tuple(self.additional_log_standard_attrs)))
        root = logging.getLogger()
        for former in [one for one in root.handlers if isinstance(one, _Handler)]:
            root.removeHandler(former)
        root.addHandler(handler)
        root.setLevel(self.log_level)


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]  # a plain class at run time
    """Known by its class: a second ``init()`` replaces it."""


class _Formatter(logging.Formatter):
    """Knows which attributes of a record are written besides the line itself."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(_LINE)
        self._names = names

    def more(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return the attributes that were asked for, the context's, and those of ``extra=``."""
        given: Mapping[str, Any] = vars(record)
        return {
            "timestamp_ns": int(record.created * 1e9),
            **{name: given.get(name) for name in self._names},
            **{name: value for name, value in given.items() if name not in _STANDARD},
        }


class _Text(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return " ".join([text, *(f"{name}={value}" for name, value in self.more(record).items())])


class _Json(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        record.asctime = self.formatTime(record)
        line = {name: getattr(record, name) for name in _ALWAYS}
        if record.exc_info:
            record.exc_text = record.exc_text or self.formatException(record.exc_info)
            line["exc_text"] = record.exc_text
        if record.stack_info:
            line["stack_info"] = self.formatStack(record.stack_info)
        return json.dumps({**line, **self.more(record)}, default=str)
