"""Group commit: results leave whenever no commit is in flight.

The first result of a slow batch is not withheld, and fast calls share a commit.  The
executor sends a commit itself when none is in flight (a synchronous call then costs no
thread hop).  Results that finish meanwhile gather; the *flusher* thread waits for the
answer and sends them, so that a long call that follows doesn't hold them back.

Every answer is read soon.  An executor that runs one call at a time reads it when it has nothing
else to do; others go on in their calls' threads, and a long call may follow.  So the flusher
stays awake for a moment behind each commit, and reads the answer if nobody has: until then no
delivery is acknowledged, and a commit that was lost with its connection is not sent again.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence

from celery_actors.ids import CALLER_BYTES, NO_INCARNATION
from celery_actors.protocol.cursors import Cursor
from celery_actors.protocol.signing import Signer
from celery_actors.protocol.values import Copy, encode_push
from celery_actors.store.committer import Commit, CommitFailed, CommitRefused, Committer
from celery_actors.store.results import Result
from celery_actors.store.rings import Rings
from celery_actors.worker.last_words import say
from celery_actors.worker.plain_results import PlainResult
from celery_actors.worker.progress import Progress

__all__ = ["Commits", "Finished"]

logger = logging.getLogger(__name__)

# Exit status of a process whose commit was refused.
_EXIT_REFUSED = 75
# Exit status of a process whose results can't be committed: Redis, or our script, calls a commit
# wrong.
_EXIT_UNCOMMITTED = 77
_UNCOMMITTED = "its results could not be stored (the actor's log says why)"

#: Results that gather behind a commit before the executor looks for its answer again.
_LOOK_EVERY = 16
#: Seconds after which the flusher reads the answer to a commit, if nobody has.
_UNREAD = 0.05
# Larger values, or more at once than a window holds, would push too many others out of the ring.
_MOST_COPIED = 256 * 1024
_MOST_COPIED_AT_ONCE = 4 * 1024 * 1024
_MOST_IN_A_RECORD = 1024 * 1024  # a record is never in two pieces: a long one wastes the ring's end


class Finished:
    """What finished calls left to be committed.

    :ivar calls: ``(caller, sequence)`` of each finished call.
    :ivar results: the results by their caller; it is here also if it has none.
    """

    __slots__ = ("calls", "plain", "results")

    def __init__(self) -> None:
        self.calls: list[tuple[bytes, int]] = []
        self.results: dict[bytes, list[Result]] = {}
        self.plain: list[PlainResult] = []

    def value(self, oid: bytes) -> bytes | None:
        """Return a stored value."""
        results = self.results.get(oid[:CALLER_BYTES], ())
        return next((value for known, _, _, value, _ in reversed(results) if known == oid), None)


class Commits:
    """The commits of one actor.

    Two locks.  ``_gathering`` guards what waits to be committed; held for a few
    instructions.  ``_sending`` guards the connection and the commit in flight; the
    flusher holds it while it waits for an answer, the executor only tries it, except when
    it has nothing else to do.

    :ivar express: callers are told that calls may come to this incarnation by express.
    """

    def __init__(
        self,
        committer: Committer,
        signer: Signer,
        actor: bytes,
        inline_limit: int,
        rings: Rings,
        progress: Progress,
        on_committed: Callable[[list[tuple[bytes, int]]], None],
    ) -> None:
        self._committer = committer
        self._signer = signer
        self._actor = actor
        self._inline_limit = inline_limit
        self._rings = rings
        self._progress = progress
        self._on_committed = on_committed
        self.express = NO_INCARNATION
        self._gathering = threading.Lock()
        self._sending = threading.Lock()
        # Until it is open: the consumer's thread may have something to commit before that, as of a
        # call that is cancelled, and the number of the first commit is not known.
        self._sending.acquire()
        self._waiting = Finished()
        self._in_flight: Finished | None = None
        self._told = False  # the flusher knows that something waits behind the commit in flight
        self._unlooked = 0  # results gathered since the last look whether that is answered
        self._asleep = False  # whether the flusher sleeps until the next commit is sent
        self._wanted = threading.Event()
        self._thread = threading.Thread(
            target=self._flush_for_ever, name="celery-actors-flusher", daemon=True
        )

    def open(self) -> Mapping[bytes, Cursor]:
        """Connect, once; returns the callers' cursors that earlier incarnations left."""
        try:
            return self._committer.open()
        finally:
            self._sending.release()

    def start(self) -> None:
        """Start the flusher."""
        self._thread.start()

    def is_finished(self, caller: bytes, sequence: int) -> bool:
        """Whether a call is finished."""
        with self._gathering:
            return self._progress.is_finished(caller, sequence)

    def forget(self, caller: bytes) -> None:
        """A caller is gone, and all its calls are committed."""
        with self._gathering:
            self._progress.forget(caller)

    def value(self, oid: bytes) -> bytes | None:
        """Return a value that is not committed yet."""
        with self._gathering:
            value = self._waiting.value(oid)
            if value is None and self._in_flight is not None:
                value = self._in_flight.value(oid)
            return value

    def add(
        self,
        caller: bytes,
        sequence: int,
        results: Sequence[Result],
        plain: PlainResult | None = None,
    ) -> None:
        """A call is finished.

        :param plain: the stored result of a plain Celery client's call.
        """
        with self._gathering:
            waiting = self._waiting
            self._progress.finish(caller, sequence)
            waiting.calls.append((caller, sequence))
            gathered = waiting.results.get(caller)
            if gathered is None:
                gathered = waiting.results[caller] = []
            gathered += results
            if plain is not None:
                waiting.plain.append(plain)
            in_flight = self._in_flight is not None
            told = self._told
            self._told = in_flight
        if not in_flight:
            self._begin_sending()
        elif not told:  # should a long call follow: the flusher waits for the answer
            self._unlooked = 0
            self._wanted.set()
        else:
            # Looking costs a system call, which many short calls share.
            self._unlooked += 1
            if self._unlooked >= _LOOK_EVERY:
                self._unlooked = 0
                self._begin_sending()

    def add_values(self, caller: bytes, results: Sequence[Result]) -> None:
        """A call that goes on made values: what a generator yielded, or a cancelled call's."""
        with self._gathering:
            self._waiting.results.setdefault(caller, []).extend(results)
        self._begin_sending()

    def _begin_sending(self) -> None:
        if self._sending.acquire(blocking=False):
            try:
                if self._in_flight is None or self._answered():
                    self._send()
                    return
            except (CommitRefused, CommitFailed) as error:
                self._exit(error)
            finally:
                self._sending.release()
        self._wanted.set()

    def _flush(self) -> None:
        """Commit what waits once the commit in flight is answered.  Flusher."""
        # Without the lock: the executor goes on committing if it comes to it before.
        self._committer.wait_for_answer()
        self.settle()

    def settle(self) -> None:
        """Wait until all that finished is committed."""
        with self._sending:
            try:
                while self._in_flight is not None or self._send():
                    self._finish()
            except (CommitRefused, CommitFailed) as error:
                self._exit(error)

    def _answered(self) -> bool:
        """Whether the commit in flight is done.  Under ``_sending``."""
        if not self._committer.ready:
            return False
        self._finish()
        return True

    def _send(self) -> bool:
        """Send what waits, if anything.  Under ``_sending``, with none in flight."""
        with self._gathering:
            finished = self._waiting
            if not finished.results:
                return False
            self._waiting = Finished()
            self._in_flight = finished
            self._told = False
            if self._asleep:
                self._asleep = False
                self._wanted.set()
            cursors = {c: self._progress.cursor(c) for c in finished.results if any(c)}
        pushes = [
            (caller.hex(), self._push(caller, cursor, finished.results[caller]))
            for caller, cursor in cursors.items()
        ]
        stored = {caller.hex(): cursor.text() for caller, cursor in cursors.items()}
        self._committer.send(Commit(finished.results, stored, pushes, finished.plain))
        return True

    def _push(self, caller: bytes, cursor: Cursor, results: Sequence[Result]) -> bytes:
        limit = self._inline_limit
        large = [n for n, result in enumerate(results) if len(result[3]) > limit and not result[4]]
        copies = self._copies(results, large) if large else {}
        pushed = [
            (task, index, value if whole or len(value) <= limit else copies.get(number))
            for number, (_, task, index, value, whole) in enumerate(results)
        ]
        memory = self._rings.memory
        return encode_push(self._signer, caller, self._actor, cursor, pushed, memory, self.express)

    def _copies(self, results: Sequence[Result], large: Sequence[int]) -> dict[int, Copy]:
        """Leave copies of values, which are only announced, in records of the ring.

        :param large: their places among the results.
        :returns: those for which there is room.
        """
        copies: dict[int, Copy] = {}
        left = _MOST_COPIED_AT_ONCE
        values: dict[int, bytes] = {}
        room = _MOST_IN_A_RECORD
        for number in large:
            value = results[number][3]
            size = len(value)
            if size > min(_MOST_COPIED, left):
                continue
            if size > room:
                self._write_record(values, copies)
                values, room = {}, _MOST_IN_A_RECORD
            values[number] = value
            left -= size
            room -= size
        if values:
            self._write_record(values, copies)
        return copies

    def _write_record(self, values: Mapping[int, bytes], copies: dict[int, Copy]) -> None:
        place = self._rings.write_results([*values.values()])
        if place is None:
            return
        at = 0
        for number, value in values.items():
            copies[number] = Copy.of(value, place, at)
            at += len(value)

    def _finish(self) -> None:
        self._committer.finish()
        with self._gathering:
            finished, self._in_flight = self._in_flight, None
        if finished is not None:
            self._on_committed(finished.calls)

    def _await_commit(self) -> None:
        """Wait until somebody asks for a commit, or the answer to one is unread.  Flusher."""
        while not self._wanted.wait(_UNREAD):
            with self._gathering:
                if self._in_flight is not None:
                    return
                self._asleep = True
            self._wanted.wait()
            self._wanted.clear()
            with self._gathering:
                if self._waiting.results:  # it was also asked, meanwhile
                    return
        self._wanted.clear()

    def _flush_for_ever(self) -> None:
        while True:
            self._await_commit()
            try:
                self._flush()
            except Exception:
                # Nobody must go on waiting for results that can't be committed.
                logger.exception("the results of actor %s can't be committed", self._actor.hex())
                say(_UNCOMMITTED)
                os._exit(_EXIT_UNCOMMITTED)

    @staticmethod
    def _exit(error: CommitRefused | CommitFailed) -> None:
        # Another incarnation is the actor now, or it was killed; or nothing can be committed.
        # Nothing more may be acknowledged or written by this process.
        if isinstance(error, CommitFailed):
            logger.error("%s; this process exits", error)
            say(_UNCOMMITTED)
            os._exit(_EXIT_UNCOMMITTED)
        level = logging.INFO if error.over else logging.WARNING
        logger.log(level, "%s; this process exits", error)
        say("its process found that it is no longer the actor")
        os._exit(_EXIT_REFUSED)
