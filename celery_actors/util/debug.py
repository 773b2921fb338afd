"""Log something once, however often the program comes by."""

from __future__ import annotations

from time import monotonic

__all__ = ["disable_log_once_globally", "enable_periodic_logging", "log_once"]

_PERIOD_SECONDS = 60.0

_seen: dict[str, float] = {}
_enabled = True
_periodic = False


def log_once(key: str) -> bool:
    """Return whether this is the first call with that key in this process.

    Args:
        key: Names the place that logs.

    Returns:
        True the first time; after :func:`enable_periodic_logging` once a minute; never after
        :func:`disable_log_once_globally`.

    Example:
        >>> if log_once("no GPU"):
        ...     logger.warning("there is no GPU")
    """
    if not _enabled:
        return False
    now, last = monotonic(), _seen.get(key)
    if last is not None and not (_periodic and now - last > _PERIOD_SECONDS):
        return False
    _seen[key] = now
    return True


def disable_log_once_globally() -> None:
    """Make :func:`log_once` return False in this process."""
    global _enabled
    _enabled = False


def enable_periodic_logging() -> None:
    """Make :func:`log_once` return True for each key once a minute."""
    global _periodic
    _periodic = True
