"""The process's own client: one a process, made by ``init()`` or by the actor process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from celery_actors.exceptions import ActorsError, SessionEndedError

if TYPE_CHECKING:
    from celery_actors.client.process import Process

__all__ = [
    "before_close",
    "closing",
    "current_process",
    "former_actors",
    "inherited_process",
    "leave_actors",
    "require_process",
    "set_initializer",
    "set_process",
]

_process: Process | None = None
_initializer: Callable[[], None] | None = None
_former_actors: set[bytes] = set()  # to which sessions of this process left handles when they ended
_forked = False  # this process is a fork of one that had imported this module
_before_close: list[Callable[[Process], None]] = []
# Guards the two variables above; held while the client is made, so that two threads
# whose first call it is share one.
_lock = threading.RLock()


def current_process() -> Process | None:
    """Return this process's client, or ``None`` before ``init()``."""
    global _forked
    process = _process
    if _forked:
        _forked = False
        if process is not None and process.pid != os.getpid():
            process.after_fork()
    return process


def inherited_process() -> Process | None:
    """Return this process's client as it is; in a forked child, that of its parent until first use.

    :func:`current_process` would make the child a caller of its own, which connects to the servers.
    """
    return _process


def _note_fork() -> None:
    global _forked, _lock
    _forked = True
    _lock = threading.RLock()  # a thread of the parent may hold the inherited one


def _before_fork() -> None:
    if _process is not None and _process.pid == os.getpid():
        _process.share_all()


# Asking the kernel who one is costs a system call, and current_process() is on every call's way.
os.register_at_fork(before=_before_fork, after_in_child=_note_fork)


def require_process(actor: bytes | None = None) -> Process:
    """Return this process's client, connected; make one with defaults first (as Ray does).

    :param actor: what it is needed for: a use of the handle to this actor.
    :raises SessionEndedError: there is none, and the handle is of a session that has ended.
    :raises ActorsError: there is none and none can be made.
    """
    process = current_process()
    if process is not None and process.started:
        return process
    with _lock:
        if _process is None and actor in _former_actors:  # a new session would not know it
            raise SessionEndedError(
                f"actor {actor.hex()} is of a session that has ended: shutdown() was called. "
                "After init() a detached actor is there again; others are created again"
            )
        if _process is None and _initializer is not None:
            _initializer()
        if _process is not None and not _process.started:
            _process.connect()  # an actor process connects when it first needs to
    if _process is None:
        raise ActorsError("celery_actors is not initialised: call celery_actors.init() first")
    return _process


def set_process(process: Process | None) -> None:
    """Make ``process`` this process's client."""
    global _process
    with _lock:
        _process = process


def leave_actors(actors: Iterable[bytes]) -> None:
    """Note to which actors a session that ends leaves handles."""
    _former_actors.update(actors)


def former_actors() -> AbstractSet[bytes]:
    """Return the actors to which earlier sessions of this process left handles."""
    return _former_actors


def before_close(action: Callable[[Process], None]) -> None:
    """Have ``action`` done with this process's client each time one is about to close."""
    _before_close.append(action)


def closing(process: Process) -> None:
    """Do what is to be done before ``process`` closes."""
    for action in _before_close:
        action(process)


def set_initializer(initializer: Callable[[], None]) -> None:
    """Say how to make a client when one is first needed."""
    global _initializer
    _initializer = initializer
