"""An actor's commits on their way to Redis: one script, and beside it what is too large for one.

The script (``lua/commit.lua``) checks that the actor's record still names this incarnation and
that the commit's number is the next one, stores, publishes, and writes the cursors, in one step.

**Large values go past the script.**  Lua hashes every byte of what a script is given and copies it
twice, which for 8 KB costs Redis three times what it costs to store them.  So when a commit has
many bytes, its large values are written by plain commands in one transaction with the script::

    WATCH record, HGET record incarnation      (sent behind the transaction before)
    MULTI, HSET … and PEXPIRE for each hash, the script, EXEC

Redis executes none of it if the record was changed since it was watched (``EXEC`` answers nil),
and the incarnation that was read then is compared here before it is sent: so nothing is stored
for an incarnation that is no longer the actor, as without a transaction.  The record changes
seldom; the commit is then sent once more.

The values beside the script are stored even if the script finds a repeat or refuses the number.
After a repeat they are the same values again.  After a refusal no cursor covers them and nobody was
told of them.  Both expire.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import sleep
from typing import Any

import hiredis
import redis

from celery_actors.exceptions import ActorsError
from celery_actors.protocol.cursors import Cursor
from celery_actors.store.connection import RedisConnection
from celery_actors.store.outage import is_outage
from celery_actors.store.results import BLOCK_BITS, FIELD, Result, Results, script

__all__ = ["Commit", "CommitFailed", "CommitRefused", "Committer"]

logger = logging.getLogger(__name__)

#: From here on a value is large, and so many bytes of such are worth a transaction.
_LARGE = 1024
_MANY = 16 * 1024
#: Seconds for Redis to answer a connection that was just made.
_PATIENCE = 10.0
_OF_REDIS = (OSError, redis.RedisError, hiredis.ReplyError)
_LOOK_EVERY = 1.0  # seconds after which a wait checks that its connection is still in use
_PAUSE = 0.1  # between attempts to reach a Redis that is away, in seconds


#: What the script's answer begins with where the record has another incarnation.
_REFUSED = "REFUSED incarnation "
#: The answers where it has none, or is gone.
_NOBODY = (_REFUSED, _REFUSED + "none")


class CommitRefused(ActorsError):
    """Another incarnation holds the actor's record: this process must exit.

    Only our own script says so, or the record itself: no error of Redis does.

    :ivar over: nobody holds it: the actor was killed, or its job has ended.
    """

    def __init__(self, message: str, *, over: bool) -> None:
        super().__init__(message)
        self.over = over


class CommitFailed(ActorsError):
    """A commit was answered with an error that a repetition would meet, too.

    That is an error of Redis's, or our script's refusal of a number that is not the next one.
    """


@dataclass(slots=True)
class Commit:
    """What one commit writes.

    :ivar results: caller id to the return values of its calls.
    :ivar cursors: caller id (hex) to the stored form of its cursor at the actor.
    :ivar pushes: caller id (hex) to the push.
    :ivar plain: results of plain Celery clients' calls: key, seconds to keep it (0: no end), value.
    """

    results: Mapping[bytes, Sequence[Result]] = field(default_factory=dict)
    cursors: dict[str, str] = field(default_factory=dict)
    pushes: list[tuple[str, bytes]] = field(default_factory=list)
    plain: Sequence[tuple[bytes, int, bytes]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A commit as it is sent.

    :ivar arguments: of the script.
    :ivar beside: the commands that store its large values.
    """

    arguments: Sequence[Any]
    beside: Sequence[Sequence[Any]]


class Committer:
    """Sends an actor's commits over its own connection, one in flight at a time.

    Not thread-safe: the executor's commit lock is held around every method.
    """

    def __init__(
        self, results: Results, client: redis.Redis, record_key: str, actor: bytes, incarnation: str
    ) -> None:
        self._results = results
        self._connection = RedisConnection(client)
        self._source = script("commit")
        self._sha = hashlib.sha1(self._source).hexdigest()
        self._record_key = record_key
        self._actor = actor
        self._cursors = results.cursors(actor)
        self._incarnation = incarnation
        self._watch = (("WATCH", record_key), ("HGET", record_key, "incarnation"))
        self._watching = False  # and the incarnation that was read then is this one
        self._number = 0
        self._in_flight: _Prepared | None = None
        self._expected = 0  # answers to it
        self._answers: list[Any] = []  # that have come
        self._outage_told = False  # whether the present outage was logged

    @property
    def in_flight(self) -> bool:
        """Whether a commit was sent and its answer not yet read."""
        return self._in_flight is not None

    @property
    def ready(self) -> bool:
        """Whether :meth:`finish` would not wait."""
        connection, answers = self._connection, self._answers
        try:
            while connection.is_open and len(answers) < self._expected:
                if not connection.readable():
                    return False
                answers += connection.replies()
        except OSError:
            connection.close()  # finish() connects again
        return True

    def wait_for_answer(self) -> None:
        """Wait, with no lock held, for the first of the answers; another may finish first."""
        try:
            # In steps: meanwhile this connection may be closed and another opened.
            while self._in_flight is not None and not self._connection.readable(_LOOK_EVERY):
                continue
        except OSError:
            return  # finish() connects again

    def open(self) -> dict[bytes, Cursor]:
        """Connect; returns the callers' cursors that earlier incarnations left."""
        while True:
            try:
                self._connect()
                self._connection.send("HGETALL", self._cursors)
                flat = self._connection.reply(timeout=_PATIENCE)
                if isinstance(flat, Exception):
                    raise flat
                break
            except Exception as error:  # noqa: BLE001 - what is no outage is raised
                self._connection.close()
                self._wait_out(error)
        stored = dict(zip(flat[::2], flat[1::2], strict=True))
        self._number = int(stored.pop(b"#", 0))
        return {bytes.fromhex(c.decode()): Cursor.parse(text) for c, text in stored.items()}

    def send(self, commit: Commit) -> None:
        """Send ``commit``; its answer is read by :meth:`finish`.

        :raises CommitRefused: the record is another incarnation's.
        """
        self._number += 1
        self._in_flight = self._prepare(commit)
        try:
            self._transmit(self._in_flight)
        except BaseException as error:  # lost, or cut short: what Redis has of it is not known
            self._connection.close()  # finish() connects again and repeats it
            if not isinstance(error, _OF_REDIS):
                raise

    def finish(self) -> None:
        """Read the answer of the commit in flight; in an outage of Redis, repeat it.

        :raises CommitRefused: the record is another incarnation's, or the actor was killed.
        :raises CommitFailed: the commit is wrong.
        """
        commit = self._in_flight
        if commit is None:
            return
        while True:
            try:
                if not self._connection.is_open:
                    self._connect()
                    self._transmit(commit)
                answer = self._answer()
                if answer is None:
                    self._transmit(commit)
                    continue
                if isinstance(answer, Exception):
                    if "NOSCRIPT" in str(answer):
                        self._transmit(commit, whole=True)
                        continue
                    raise answer
            except BaseException as error:  # noqa: BLE001 - what is no outage is raised
                self._connection.close()  # lost, or cut short: what Redis has is not known
                self._wait_out(error)
                continue
            self._in_flight = None
            if answer == b"OK":
                self._outage_told = False
                return
            said = answer.decode() if isinstance(answer, bytes) else str(answer)
            if said.startswith(_REFUSED):
                raise self._refused(said, over=said in _NOBODY)
            raise self._failed(said)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _connect(self) -> None:
        self._connection.open()
        self._watching = False
        # So that the script is hardly ever unknown: values beside it would be stored without it.
        self._connection.send("SCRIPT", "LOAD", self._source)
        answer = self._connection.reply(timeout=_PATIENCE)
        if isinstance(answer, Exception):
            raise answer

    def _wait_out(self, error: BaseException) -> None:
        """Pause if ``error`` is an outage of Redis: it gives no signal of its end.

        :raises CommitFailed: it is an error answer that Redis would repeat.
        :raises BaseException: it is no error of Redis.
        """
        if not is_outage(error):
            if isinstance(error, _OF_REDIS):
                self._in_flight = None
                raise self._failed(error) from error
            raise error
        if not self._outage_told:
            self._outage_told = True
            logger.warning("results wait for Redis, which says: %s", error)
        sleep(_PAUSE)

    def _transmit(self, commit: _Prepared, whole: bool = False) -> None:
        """Send a commit; :param whole: the script itself, which Redis doesn't know."""
        name = ("EVAL", self._source) if whole else ("EVALSHA", self._sha)
        command = (*name, 0, *commit.arguments)
        self._answers = []
        if not commit.beside:
            self._expected = 1
            self._connection.send(*command)
            return
        if not self._watching:
            self._look_at_record()
        commands = (("MULTI",), *commit.beside, command, ("EXEC",), *self._watch)
        self._expected = len(commands)
        self._connection.send_all(commands)

    def _answer(self) -> Any:
        """Return what the script answered, or an error; ``None``: the record was changed."""
        answers = self._answers
        while len(answers) < self._expected:
            answers.append(self._connection.reply())
        if len(answers) == 1:
            return answers[0]
        *_, executed, _, held = answers
        self._watching = held == self._incarnation.encode()
        inside = executed if isinstance(executed, list) else ()
        for answer in (*answers, *inside):
            if isinstance(answer, Exception):
                return answer
        return None if executed is None else executed[-1]

    def _look_at_record(self) -> None:
        """Watch the record.

        :raises CommitRefused: it is another incarnation's.
        :raises hiredis.ReplyError: Redis answers with an error.
        """
        self._connection.send_all(self._watch)
        for held in [self._connection.reply() for _ in self._watch]:
            if isinstance(held, Exception):
                raise held
        self._watching = held == self._incarnation.encode()
        if not self._watching:
            raise self._refused(
                f"the record's incarnation is {(held or b'none').decode()}", over=not held
            )

    def _refused(self, why: str, *, over: bool) -> CommitRefused:
        return CommitRefused(
            f"commit {self._number} of actor {self._actor.hex()} was refused: {why}", over=over
        )

    def _failed(self, why: object) -> CommitFailed:
        return CommitFailed(f"commit {self._number} of actor {self._actor.hex()} failed: {why}")

    def _prepare(self, commit: Commit) -> _Prepared:
        results = self._results
        large = sum(
            len(value)
            for stored in commit.results.values()
            for _, _, _, value, _ in stored
            if len(value) >= _LARGE
        )
        # What of a block is given to the script, and what is stored beside it.
        blocks: dict[tuple[bytes, int], tuple[list[bytes], list[bytes]]] = {}
        least = _LARGE if large >= _MANY else sys.maxsize
        pack = FIELD.pack
        for caller, stored in commit.results.items():
            block = -1
            given: list[bytes] = []
            beside: list[bytes] = []
            for _, sequence, index, value, _ in stored:
                if sequence >> BLOCK_BITS != block:
                    block = sequence >> BLOCK_BITS
                    given, beside = blocks.setdefault((caller, block), ([], []))
                pairs = beside if len(value) >= least else given
                pairs += (pack(sequence, index), value)
        arguments: list[Any] = [
            self._record_key,
            self._incarnation,
            self._number,
            self._cursors,
            results.ttl_ms,
            len(blocks),
            len(commit.cursors),
            len(commit.pushes),
            len(commit.plain),
        ]
        commands: list[Sequence[Any]] = []
        for (caller, block), (given, beside) in blocks.items():
            key = results.block(caller, block << BLOCK_BITS)
            arguments += (key, results.waiters(caller), len(given) // 2, len(beside) // 2)
            arguments += given
            arguments += beside[::2]
            if beside:
                commands += (("HSET", key, *beside), ("PEXPIRE", key, results.ttl_ms))
        for cursor in commit.cursors.items():
            arguments.extend(cursor)
        for channel, payload in commit.pushes:
            arguments.append(results.channel(channel))
            arguments.append(payload)
        for plain in commit.plain:
            arguments += plain
        return _Prepared(arguments, commands)
