"""Progress bars that actors and tasks may use: what they do is printed, a line now and then.

A bar that is drawn over itself needs a terminal of its own, and several processes share the
driver's.  So each bar prints a line when it is new, at most one in ``flush_interval_s`` seconds
after that, and one when it is closed.  The driver shows these as it shows all that actors print.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from time import monotonic
from types import TracebackType
from typing import Any, Generic, TypeVar

from typing_extensions import Self

__all__ = ["safe_print", "tqdm"]

T = TypeVar("T")


def safe_print(*args: Any, **kwargs: Any) -> None:
    """Print beside the bars: as :func:`print`, since they are lines of their own."""
    print(*args, **kwargs)  # noqa: T201 - that is what it is for


class tqdm(Generic[T]):  # noqa: N801 - its name in tqdm and Ray
    """A progress bar with the interface of ``tqdm.tqdm`` that Ray's has.

    Args:
        iterable: Iterated over; each item is one step.
        desc: Said before the bar.
        total: Steps in all; by default the iterable's length, where it has one.
        unit: What a step is called.
        position: Accepted for Ray's programs: lines have no position.
        flush_interval_s: Seconds between two lines, at least.

    Example:
        >>> for batch in tqdm(batches, desc="training"):
        ...     train(batch)
    """

    def __init__(
        self,
        iterable: Iterable[T] | None = None,
        desc: str | None = None,
        total: int | None = None,
        unit: str | None = None,
        position: int | None = None,
        flush_interval_s: float | None = None,
    ) -> None:
        del position
        self._iterable = iterable
        self._desc = desc or ""
        length = getattr(iterable, "__len__", None)
        self._total = length() if total is None and length is not None else total
        self._unit = unit or "it"
        self._interval = 1.0 if flush_interval_s is None else flush_interval_s
        self._n = 0
        self._closed = False
        self._began = monotonic()
        self._printed = -self._interval
        self._show()

    @property
    def total(self) -> int | None:
        """Steps in all, if that is known."""
        return self._total

    @total.setter
    def total(self, total: int | None) -> None:
        self._total = total

    @property
    def n(self) -> int:
        """Steps done."""
        return self._n

    @n.setter
    def n(self, n: int) -> None:
        self._n = n

    def set_description(self, desc: str) -> None:
        """Say something else before the bar."""
        self._desc = desc
        self._show()

    def update(self, n: int = 1) -> None:
        """Count ``n`` more steps."""
        self._n += n
        self._show()

    def refresh(self) -> None:
        """Print the bar now."""
        self._show(at_once=True)

    def close(self) -> None:
        """Print the bar for the last time."""
        if not self._closed:
            self._closed = True
            self._show(at_once=True)

    def __iter__(self) -> Iterator[T]:
        if self._iterable is None:
            raise ValueError("tqdm() was given no iterable to iterate over")
        for item in self._iterable:
            yield item
            self.update()
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _show(self, at_once: bool = False) -> None:
        now = monotonic() - self._began
        if not at_once and now - self._printed < self._interval:
            return
        self._printed = now
        rate = f", {self._n / now:.3g} {self._unit}/s" if self._n and now > 0 else ""
        done = f"{self._n}"
        if self._total:
            done = f"{self._n / self._total:.0%} {self._n}/{self._total}"
        # In one piece: lines of several threads stay whole.
        sys.stderr.write(f"{self._desc + ': ' if self._desc else ''}{done} [{now:.0f} s{rate}]\n")
        sys.stderr.flush()
