"""Which errors of Redis are outages, and how long a command is repeated in one."""

from __future__ import annotations

from typing import Any

import hiredis
import pytest
import redis

from celery_actors.exceptions import ConnectionFailed
from celery_actors.store import patience as module
from celery_actors.store.outage import is_lost, is_outage
from celery_actors.store.patience import Patience, RedisUnavailable

NOT_NOW = [
    "OOM command not allowed when used memory > 'maxmemory'.",
    "OOM command not allowed when used memory > 'maxmemory'. script: 1a2b, on @user_script:30.",
    "READONLY You can't write against a read only replica.",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist",
    "NOREPLICAS Not enough good replicas to write.",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "LOADING Redis is loading the dataset in memory",
    "CLUSTERDOWN The cluster is down",
    "NOAUTH Authentication required.",
    "ERR max number of clients reached",
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
    "ERR Error running script (call to f_1a2b): @user_script:30: @user_script: 30: -OOM command "
    "not allowed when used memory > 'maxmemory'.",
    "ERR Error running script (call to f_1a2b): @user_script:30: -READONLY You can't write",
]
WRONG = [
    "ERR unknown command 'NOSUCH'",
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "NOSCRIPT No matching script.",
    "NOPERM this user has no permissions to run the 'eval' command",
    "ERR user_script:12: Script attempted to access nonexistent global variable 'x'",
]


def parsed(text: str) -> Exception:
    """The exception that redis-py makes of an error reply."""
    made: Exception = redis.connection.DefaultParser(socket_read_size=1024).parse_error(text)
    return made


@pytest.mark.parametrize("text", NOT_NOW)
def test_what_redis_can_not_do_now_is_an_outage(text: str) -> None:
    assert is_outage(parsed(text))
    assert is_outage(hiredis.ReplyError(text))


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_stays_wrong(text: str) -> None:
    assert not is_outage(parsed(text))
    assert not is_outage(hiredis.ReplyError(text))


def test_a_lost_connection_is_an_outage_and_an_answer_no_lost_connection() -> None:
    for error in (redis.ConnectionError(), redis.TimeoutError(), ConnectionResetError()):
        assert is_outage(error)
        assert is_lost(error)
    assert not is_lost(parsed(NOT_NOW[0]))
    for other in (ValueError("OOM"), b"REFUSED incarnation none", b"OK", None):
        assert not is_outage(other)


class Server:
    """Fails so often, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.closed = 0

    def do(self) -> str:
        if self._errors:
            raise self._errors.pop(0)
        return "done"

    def close(self, _error: Exception, _failures: int) -> None:
        self.closed += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    now = [100.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    monkeypatch.setattr(module, "sleep", sleep)
    return now


def test_in_an_outage_a_command_is_repeated_on_new_connections(clock: Any) -> None:
    patience = Patience("redis://host/0", lambda: 30.0)
    server = Server(*map(parsed, NOT_NOW), redis.ConnectionError("lost"))
    assert patience.call_with_retry(server.do, server.close, with_failure_count=True) == "done"
    assert server.closed == len(NOT_NOW) + 1


def test_what_is_wrong_is_raised_at_once(clock: Any) -> None:
    patience = Patience("redis://host/0", lambda: 30.0)
    server = Server(parsed(WRONG[1]))
    with pytest.raises(redis.ResponseError, match="wrong kind"):
        patience.call_with_retry(server.do, server.close, with_failure_count=True)
    assert server.closed == 0


def test_after_the_patience_the_error_says_what_to_do(clock: Any) -> None:
    patience = Patience("redis://:secret@host:1/0", lambda: 30.0)
    server = Server(*(parsed(NOT_NOW[0]) for _ in range(1000)))
    with pytest.raises(RedisUnavailable, match=r"host:1/0 .* for 30 s.*raise its max") as raised:
        patience.call_with_retry(server.do, server.close, with_failure_count=True)
    assert isinstance(raised.value, ConnectionFailed)
    assert isinstance(raised.value, redis.ConnectionError), "as others know it"
    assert 129 < clock[0] < 132


def test_who_closes_waits_no_longer(clock: Any) -> None:
    left = iter((30.0, 30.0, 0.01, 0.01))
    patience = Patience("redis://host/0", lambda: next(left))
    server = Server(*(redis.ConnectionError("lost") for _ in range(1000)))
    with pytest.raises(RedisUnavailable):
        patience.call_with_retry(server.do, server.close, with_failure_count=True)
    assert server.closed == 3
