"""What can go wrong, under Ray's names and our own.

Every class derives from :class:`ActorsError`, which Ray's programs know as
``RayError``.  Messages say what happened, to which actor or call, and what to do next.
"""

from __future__ import annotations

import logging
import sys
from typing import NamedTuple, SupportsIndex

from celery_actors.control.errors import GroupNameTaken, NodeNameTaken
from celery_actors.control.errors import InsufficientResources as Shortage
from celery_actors.error_copies import (
    assemble,
    attributes_of,
    carried,
    derive,
    from_carried,
    state_of,
)
from celery_actors.tracebacks import name_of, text_of

__all__ = [
    "ActorAlreadyExistsError",
    "ActorDiedError",
    "ActorError",
    "ActorPlacementGroupRemoved",
    "ActorUnavailableError",
    "ActorUnschedulableError",
    "ActorsError",
    "AlreadyInitialized",
    "AsyncioActorExit",
    "ConfigurationError",
    "ConnectionFailed",
    "CrossLanguageError",
    "GetTimeoutError",
    "GroupNameTaken",
    "InsufficientResources",
    "NodeDiedError",
    "NodeNameTaken",
    "ObjectFetchTimedOutError",
    "ObjectFreedError",
    "ObjectLostError",
    "ObjectReconstructionFailedError",
    "ObjectStoreFullError",
    "OutOfDiskError",
    "OutOfMemoryError",
    "OwnerDiedError",
    "PendingCallsLimitExceeded",
    "PlacementGroupRemoved",
    "RayActorError",
    "RayError",
    "RaySystemError",
    "RayTaskError",
    "ReferenceCountingAssertionError",
    "RuntimeEnvSetupError",
    "SerializationError",
    "SessionEndedError",
    "TamperedError",
    "TaskCancelledError",
    "TaskError",
    "TaskPlacementGroupRemoved",
    "TaskUnschedulableError",
    "WorkerCrashedError",
]

logger = logging.getLogger(__name__)


class ActorsError(Exception):
    """Base of every error of this package (Ray: ``RayError``)."""


RayError = ActorsError


class ConfigurationError(ActorsError, ValueError):
    """A setting is missing or contradicts another."""


class AlreadyInitialized(ActorsError, RuntimeError):
    """``init()`` was called in a program that has a session."""


class SessionEndedError(ActorsError, ValueError):
    """The ref or handle is of a session that ``shutdown()`` has ended."""


class InsufficientResources(ActorsError, Shortage):
    """No node could run it, even with nothing else running: not enough GPUs, say.

    :ivar asked, best: by kind of resource (units of 1/10000), what was asked for and the most
        that any one node has.
    """


class ConnectionFailed(ActorsError, ConnectionError):
    """RabbitMQ or Redis could not be reached, or refused the credentials."""


class TamperedError(ActorsError):
    """A payload carries no valid signature: it was not unpickled."""


class SerializationError(ActorsError, TypeError):
    """A value could not be serialized; the message names it and where it sits."""


class GetTimeoutError(ActorsError, TimeoutError):
    """``get`` waited for its whole timeout and a result was not there."""


class TaskCancelledError(ActorsError):
    """The call was cancelled before it ran or while it ran."""


class PendingCallsLimitExceeded(ActorsError):
    """More calls to one actor wait unresolved than its bound allows."""


class WorkerCrashedError(ActorsError):
    """The process that ran a task died, as often as the task may be retried."""


class RuntimeEnvSetupError(ActorsError):
    """The ``runtime_env`` of an actor or task could not be set up; none of it ran.

    Files that could not be packaged, a node that could not unpack them, an interpreter
    that did not start: the message says which, with its last words.
    """


class ActorUnschedulableError(ActorsError, ValueError):
    """The one node on which the actor was to run is not there, or too small."""


class TaskUnschedulableError(ActorsError, ValueError):
    """The one node on which the task was to run is not there, or too small."""


class PlacementGroupRemoved(ActorsError, ValueError):
    """The placement group was removed, or there never was one."""


class ActorPlacementGroupRemoved(PlacementGroupRemoved):
    """The placement group in which the actor was to run was removed."""


class TaskPlacementGroupRemoved(PlacementGroupRemoved):
    """The placement group in which the task was to run was removed."""


class ObjectLostError(ActorsError):
    """The value is no longer stored (released, expired, or its node is gone)."""


class OwnerDiedError(ObjectLostError):
    """The process that made the call is gone, and the call has stored no value."""


class ObjectFetchTimedOutError(ObjectLostError):
    """The value lies on another node, which did not send it in time."""


# What Ray's programs name in `except`, and nothing here raises.


class ObjectFreedError(ObjectLostError):
    """Ray: the value was freed by hand, which can't be done here."""


class ObjectReconstructionFailedError(ObjectLostError):
    """Ray: the value was lost and could not be made again; here nothing tries to yet."""


class ReferenceCountingAssertionError(ObjectLostError, AssertionError):
    """Ray: the value was deleted though a ref to it was left."""


class ObjectStoreFullError(ActorsError):
    """Ray: no room for a value; here it goes to disk instead."""


class OutOfDiskError(ActorsError):
    """Ray: no room for a value on disk; here the system's own OSError says so."""


class OutOfMemoryError(ActorsError):
    """Ray: a process was killed for its memory; here the kernel's kill is an actor's death."""


class AsyncioActorExit(ActorsError):
    """Ray: ends an asyncio actor from within; here ``exit_actor()`` does, in any actor."""


class CrossLanguageError(ActorsError):
    """Ray: an error of another language's code; here all is Python."""


class NodeDiedError(ActorsError):
    """Ray: a node died under a task; here the task runs elsewhere, or crashed."""


class ActorError(ActorsError):
    """Something is wrong with the actor that a call went to (Ray: ``RayActorError``).

    :ivar actor_id: the actor's id in hex, where known.
    """

    def __init__(self, message: str = "the actor failed", actor_id: str | None = None) -> None:
        super().__init__(message)
        self.actor_id = actor_id

    def __reduce__(self) -> tuple[type[ActorError], tuple[str, str | None]]:
        return type(self), (str(self.args[0]), self.actor_id)


class ActorDiedError(ActorError):
    """The actor is dead; the message names the cause."""


class ActorUnavailableError(ActorError):
    """The actor can't be reached now; a later call may succeed."""


class ActorAlreadyExistsError(ActorsError, ValueError):
    """A living actor has that name in that namespace already."""


class TaskError(ActorsError):
    """User code raised.  What ``get`` raises is also an instance of the user's class.

    :ivar function_name: the method or function, e.g. ``"Counter.increment"``.
    :ivar remote_traceback: the traceback as text, formatted where it was raised.
    :ivar cause: the exception that the user's code raised; when it could not be carried over,
        an :class:`ActorsError` that says why, and what it was.
    """

    def __init__(
        self, function_name: str, remote_traceback: str, cause: BaseException | None = None
    ) -> None:
        # Not super(): in the derived classes that would run the user's own __init__.
        Exception.__init__(self, function_name, remote_traceback, cause)
        _tell(self, Told(function_name, remote_traceback, cause))

    def __str__(self) -> str:
        told = told_by(self)
        return f"{told.function_name} raised:\n{told.remote_traceback.rstrip()}"

    def as_instanceof_cause(self) -> TaskError:
        """Return this error as an instance of the user's exception class as well.

        Follows Ray's ``RayTaskError.as_instanceof_cause``.  None of the user's code runs.
        A ``KeyboardInterrupt`` would end the program that gets it as if by Ctrl-C: the error is
        a :class:`TaskCancelledError` in its place (as Ray's).  Where the class can't be derived
        from (its layout conflicts), the plain error is returned, with a warning.
        """
        cause = told_by(self).cause
        # Types are compared: `isinstance` asks a user's class for its ``__class__``.
        if cause is None or type(cause) is ActorsError:  # a TaskError is one already
            return self
        if issubclass(type(cause), TaskError):
            assert isinstance(cause, TaskError)
            return cause
        try:
            return _derived(told_by(self), cause)
        except KeyboardInterrupt:  # Ctrl-C, here
            raise
        except BaseException as error:  # noqa: BLE001 - of a user's metaclass, which may raise anything
            logger.warning(
                "%s raised a %s, and no class can be derived from that: the error is a TaskError "
                "only; its attribute `cause` is the exception itself. What deriving raised: %s: %s",
                told_by(self).function_name,
                name_of(cause),
                name_of(error),
                text_of(error),
            )
            return self


class Told(NamedTuple):
    """What a :class:`TaskError` says (see its attributes)."""

    function_name: str
    remote_traceback: str
    cause: BaseException | None


#: Under which a TaskError keeps what it says.  The user's class may have properties of its own
#: that are called as ours are, so that its attributes are for people only.
_TOLD = "_celery_actors_told"


def told_by(error: TaskError) -> Told:
    """Return what a :class:`TaskError` says, whatever the user's class makes of attributes."""
    told = attributes_of(error).get(_TOLD)
    return told if isinstance(told, Told) else Told(type(error).__qualname__, "", None)


def _tell(error: TaskError, told: Told) -> None:
    attributes_of(error).update(told._asdict(), **{_TOLD: told})


class _DerivedTaskError(TaskError):
    """What the derived classes share; pickles back through the plain error.

    An exception is written to while it is raised, hashed by who reports it, and copied: these
    work, whatever the user's class says.
    """

    __hash__ = BaseException.__hash__
    __setattr__ = BaseException.__setattr__
    __delattr__ = BaseException.__delattr__

    def __init_subclass__(cls) -> None:
        """Not the user's, which may refuse, or keep a list of subclasses."""

    def __reduce_ex__(self, _protocol: SupportsIndex) -> tuple[object, tuple[object, ...]]:
        told = told_by(self)
        assert told.cause is not None
        return _rebuild, (told.function_name, told.remote_traceback, carried(told.cause))

    def __copy__(self) -> TaskError:
        return TaskError(*told_by(self)).as_instanceof_cause()


def _rebuild(function_name: str, traceback: str, cause: object) -> TaskError:
    return TaskError(function_name, traceback, from_carried(cause)).as_instanceof_cause()


def _derived(told: Told, cause: BaseException) -> TaskError:
    bases: list[type[BaseException]] = [_DerivedTaskError]
    kind, state = type(cause), state_of(cause)
    ends_program = issubclass(kind, (KeyboardInterrupt, SystemExit))
    if ends_program or _is_asyncio_cancellation(kind):
        bases.append(TaskCancelledError)
    if ends_program:
        state = state._replace(members={})
    else:
        bases.append(kind)
    name = f"TaskError({kind.__name__})"
    error = assemble(derive(name, tuple(dict.fromkeys(bases)), __name__), state)
    assert isinstance(error, TaskError)
    _tell(error, told)
    return error


def _is_asyncio_cancellation(kind: type[BaseException]) -> bool:
    asyncio = sys.modules.get("asyncio")  # where nobody imported it there is no such class
    return asyncio is not None and issubclass(kind, asyncio.CancelledError)


class _FutureStopped(TaskError, RuntimeError):
    """A StopIteration that a future can carry (see :func:`carried_by_future`)."""


class _FutureCancelled(TaskError, TaskCancelledError):
    """A cancellation within asyncio that a future can carry."""


def carried_by_future(error: BaseException) -> BaseException:
    """Return an error in a form that futures, and those who await them, take for an error.

    ``StopIteration`` would end the coroutine that awaits it as if with a value; Python makes a
    ``RuntimeError`` of it elsewhere (PEP 479).  asyncio takes ``CancelledError`` for the
    cancellation of the task that awaits it.
    """
    if not issubclass(type(error), TaskError):
        return error
    assert isinstance(error, TaskError)
    if issubclass(type(error), StopIteration):
        return _FutureStopped(*told_by(error))
    if _is_asyncio_cancellation(type(error)):
        return _FutureCancelled(*told_by(error))
    return error


RayActorError = ActorError
RaySystemError = ConnectionFailed
RayTaskError = TaskError
