"""What a case is: a promise of Ray's documentation, and a function that holds one to it.

Example::

    @case("A method's result is what the method returned")
    def result(ray):
        @ray.remote
        class Echo:
            def say(self, x):
                return x

        assert ray.get(Echo.remote().say.remote(3)) == 3
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

__all__ = ["Case", "Check", "case"]

Check = Callable[[ModuleType], None]

_SECONDS = 15.0


@dataclass
class Case:
    """One promise and the check of it.

    :ivar subject: the module of `conformance.cases` that it is in.
    :ivar promise: what the documentation says, in one line.
    :ivar check: runs with Ray's module or ours; raises where the promise does not hold.
    :ivar better: what this package promises beyond it, on purpose; :attr:`stronger` checks it.
    :ivar deviates: how Ray 2.60 itself departs from its documentation here: the check fails there.
    :ivar worse: why this package falls short of it; without that a failure is a fault.
    :ivar seconds: after which the check counts as hung.
    """

    subject: str
    name: str
    promise: str
    check: Check
    better: str | None = None
    deviates: str | None = None
    worse: str | None = None
    seconds: float = _SECONDS
    stronger: Check | None = None

    @property
    def id(self) -> str:
        """Return the case's name among all cases."""
        return f"{self.subject}.{self.name}"

    def ours(self, check: Check) -> Check:
        """Decorate the check of what :attr:`better` says."""
        assert self.better is not None, f"{self.id}: say what is better"
        self.stronger = check
        return check


def case(
    promise: str,
    *,
    better: str | None = None,
    deviates: str | None = None,
    worse: str | None = None,
    seconds: float = _SECONDS,
) -> Callable[[Check], Case]:
    """Decorate the check of a promise; see :class:`Case`."""

    def decorate(check: Check) -> Case:
        subject = check.__module__.rpartition(".")[2]
        return Case(subject, check.__name__, promise, check, better, deviates, worse, seconds)

    return decorate
