"""Counter, Gauge and Histogram: a program's own metrics, shown to Prometheus.

``celery-actors metrics`` serves them (see the page on operations), with the labels
``JobId``, ``NodeName`` and ``ActorClass`` besides the metric's own tags; a gauge, which
each process has for itself, also with ``WorkerId``.  They end with the job.

Example::

    from celery_actors.util.metrics import Counter

    @ray.remote
    class Till:
        def __init__(self):
            self.sold = Counter("sold", description="Items sold.", tag_keys=("kind",))

        def sell(self, kind):
            self.sold.inc(tags={"kind": kind})
"""

from __future__ import annotations

import re
import warnings
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, TypeVar

from celery_actors.metrics.recording import Tags, recorder

__all__ = ["Counter", "Gauge", "Histogram", "Metric"]

MetricT = TypeVar("MetricT", bound="Metric")

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


class Metric:
    """What the three have in common (as Ray's ``util.metrics.Metric``).

    :param name: of letters, digits, ``_`` and ``:``.  With another name nothing is
        measured, and there is a warning.
    :param tag_keys: names of its tags; each record has a value for each.
    :raises ValueError: the name is empty.
    :raises TypeError: ``tag_keys`` is no tuple of strings.
    """

    _kind = ""

    def __init__(
        self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = None
    ) -> None:
        if not name:
            raise ValueError("a metric needs a name: it is empty")
        keys = tag_keys or ()
        if not isinstance(keys, tuple):
            raise TypeError(f"tag_keys must be a tuple, not {keys!r}")
        for key in keys:
            if not isinstance(key, str):
                raise TypeError(f"a tag's key must be a string, not {key!r}")
        self._name = name
        self._description = description
        self._tag_keys = keys
        self._default_tags: dict[str, str] = {}
        self._described = False
        self._discarded = _NAME.fullmatch(name) is None
        if self._discarded:
            warnings.warn(
                f"metric {name!r} is not measured: a name has letters, digits, _ and : only, and "
                "begins with no digit",
                UserWarning,
                stacklevel=3,
            )

    def set_default_tags(self: MetricT, default_tags: Mapping[str, str]) -> MetricT:
        """Set the values of tags that records don't give; returns the metric itself.

        :raises ValueError: a key that is none of the metric's.
        :raises TypeError: a value that is no string.
        """
        for key, value in default_tags.items():
            if key not in self._tag_keys:
                known = ", ".join(self._tag_keys) or "none"
                raise ValueError(f"metric {self._name} has no tag {key!r}: it has {known}")
            _check_tag(key, value)
        self._default_tags = dict(default_tags)
        return self

    @property
    def info(self) -> dict[str, Any]:
        """What the metric is: its name, description, tag keys and default tags."""
        return {
            "name": self._name,
            "description": self._description,
            "tag_keys": self._tag_keys,
            "default_tags": self._default_tags,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        tags = self._default_tags
        return _made, (type(self), (self._name, self._description, self._tag_keys), tags)

    def _tags(self, tags: Mapping[str, str] | None) -> Tags:
        """Return the tags of a record, in an order of their own."""
        if not self._described:
            self._described = True
            recorder.describe(self._name, self._facts())
        given: Mapping[str, str] = self._default_tags
        if tags:
            for key, value in tags.items():
                _check_tag(key, value)
            given = {**given, **tags}
        missing = [key for key in self._tag_keys if key not in given]
        if missing:
            raise ValueError(f"metric {self._name}: no value for the tag(s) {', '.join(missing)}")
        return tuple(sorted(given.items()))

    def _facts(self) -> dict[str, Any]:
        return {"kind": self._kind, "description": self._description}


class Counter(Metric):
    """Counts what only grows: calls, bytes, failures."""

    _kind = "counter"

    def inc(self, value: float = 1.0, tags: Mapping[str, str] | None = None) -> None:
        """Add ``value``.

        :param tags: values of tags; also such as are no keys of the metric (as Ray's).
        :raises ValueError: it is not above 0; a tag has no value.
        :raises TypeError: it is no number; a tag's value is no string.
        """
        _check_number(value, finite=True)
        if value <= 0:
            raise ValueError(f"a counter grows: the value must be above 0, not {value}")
        pairs = self._tags(tags)
        if not self._discarded:
            recorder.add([((self._name, "", pairs), value)])


class Gauge(Metric):
    """Shows the last value of what goes up and down: sizes, temperatures."""

    _kind = "gauge"

    def set(self, value: float | None, tags: Mapping[str, str] | None = None) -> None:
        """Set the value; ``None`` changes nothing.

        :raises ValueError, TypeError: as :meth:`Counter.inc`.
        """
        if value is None:
            return
        _check_number(value)
        pairs = self._tags(tags)
        if not self._discarded:
            recorder.set((self._name, "", pairs), value)


class Histogram(Metric):
    """Counts values by size: latencies, lengths.

    :param boundaries: of its buckets, above 0; a value goes to the first that is not below it.
    :raises ValueError: there is none, or one is not above 0.
    """

    _kind = "histogram"

    def __init__(
        self,
        name: str,
        description: str = "",
        boundaries: Sequence[float] | None = None,
        tag_keys: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__(name, description, tag_keys)
        if not boundaries:
            raise ValueError(f"histogram {name} needs boundaries, e.g. boundaries=[0.1, 1, 10]")
        for boundary in boundaries:
            if boundary <= 0:
                raise ValueError(f"histogram {name}: boundaries must be above 0, not {boundary}")
        self.boundaries = list(boundaries)
        self._bounds = sorted(set(boundaries))

    def observe(self, value: float, tags: Mapping[str, str] | None = None) -> None:
        """Count ``value``.

        :raises ValueError, TypeError: as :meth:`Counter.inc`.
        """
        _check_number(value, finite=True)
        pairs = self._tags(tags)
        if not self._discarded:
            bucket = str(bisect_left(self._bounds, value))
            name = self._name
            recorder.add([((name, bucket, pairs), 1), ((name, "sum", pairs), value)])

    @property
    def info(self) -> dict[str, Any]:
        """As of every metric, with its boundaries."""
        return {**super().info, "boundaries": self.boundaries}

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = self._name, self._description, self.boundaries, self._tag_keys
        return _made, (type(self), arguments, self._default_tags)

    def _facts(self) -> dict[str, Any]:
        return {**super()._facts(), "boundaries": self._bounds}


def _made(kind: type[Metric], arguments: tuple[Any, ...], tags: Mapping[str, str]) -> Metric:
    return kind(*arguments).set_default_tags(tags)


def _check_number(value: Any, finite: bool = False) -> None:
    if not isinstance(value, (int, float)):
        raise TypeError(f"a metric's value must be a number, not {value!r}")
    if finite and not isfinite(value):
        raise ValueError(f"what is added up must be finite, not {value}")


def _check_tag(key: str, value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"the value of tag {key!r} must be a string, not {value!r}")
