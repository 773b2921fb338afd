"""Whether the Redis at hand can be used: what its user may do, and that it is no cluster.

A right that is missing would be found only when it is first needed, in the middle of a call.  So it
is looked for when a process joins: between ``MULTI`` and ``DISCARD`` Redis checks each command
against the user's rules, and executes none.
"""

from __future__ import annotations

import re

import redis

from celery_actors.app_settings import without_password
from celery_actors.config import Settings
from celery_actors.exceptions import ConfigurationError
from celery_actors.store.connection import RedisConnection
from celery_actors.store.outage import is_outage
from celery_actors.store.patience import RedisUnavailable, at_most

__all__ = ["COMMANDS", "check_redis"]

_WORDS: dict[str, tuple[str | int, ...]] = {
    "blpop": ("KEY", 0),
    "del": ("KEY",),
    "eval": ("return 1", 0),
    "evalsha": ("0" * 40, 0),
    "exists": ("KEY",),
    "expire": ("KEY", 1),
    "hdel": ("KEY", "f"),
    "hexists": ("KEY", "f"),
    "hget": ("KEY", "f"),
    "hgetall": ("KEY",),
    "hincrby": ("KEY", "f", 1),
    "hincrbyfloat": ("KEY", "f", 1),
    "hkeys": ("KEY",),
    "hlen": ("KEY",),
    "hmget": ("KEY", "f"),
    "hset": ("KEY", "f", 1),
    "hsetnx": ("KEY", "f", 1),
    "incr": ("KEY",),
    "llen": ("KEY",),
    "lrange": ("KEY", 0, 1),
    "ltrim": ("KEY", 0, 1),
    "persist": ("KEY",),
    "pexpire": ("KEY", 1),
    "publish": ("CHANNEL", "x"),
    "rpush": ("KEY", "x"),
    "sadd": ("KEY", "x"),
    "scan": (0,),
    "scard": ("KEY",),
    "script|load": ("return 1",),
    "setex": ("KEY", 1, "x"),
    "smembers": ("KEY",),
    "srem": ("KEY", "x"),
    "subscribe": ("CHANNEL",),
    "time": (),
    "unlink": ("KEY",),
    "watch": ("KEY",),
    "zadd": ("KEY", 1, "x"),
    "zcard": ("KEY",),
    "zcount": ("KEY", 0, 1),
    "zrange": ("KEY", 0, 1),
    "zrangebyscore": ("KEY", 0, 1),
    "zrem": ("KEY", "x"),
    "zremrangebyscore": ("KEY", 0, 1),
    "zscore": ("KEY", "x"),
    "exec": (),
}
#: All commands that processes of a cluster send, also within scripts, as ACL rules name them.
COMMANDS = ("multi", "discard", *_WORDS)

_PLAIN_KEYS = "celery-task-meta-"
_ANSWER_SECONDS = 10.0
_IN_QUOTES = re.compile("'([^']+)' command")
_OF_A_CLUSTER = ("CROSSSLOT", "MOVED", "ASK", "CLUSTERDOWN")


def check_redis(client: redis.Redis, settings: Settings, *, serves: bool = False) -> None:
    """Refuse a Redis on which this package can't work.

    :param serves: its processes are actors, which store what plain Celery clients asked for.
    :raises ConfigurationError: its user lacks a right (the message has the rule that gives it), or
        it is a Redis Cluster: one commit touches keys of many callers, in one step.
    :raises redis.RedisError: it can't be reached.
    """
    connection = RedisConnection(client)
    try:
        _open(connection)
        commands, places, in_cluster = _refused(connection, settings, serves)
    except redis.exceptions.NoPermissionError as error:
        # SELECT for another database than 0, CLIENT SETNAME for redis_client_name.
        commands, places, in_cluster = _IN_QUOTES.findall(str(error)), [], False
    except RedisUnavailable:
        raise
    except OSError as error:
        raise redis.ConnectionError(f"no answer from Redis: {error}") from error
    finally:
        connection.close()
    address = without_password(settings.result_backend)
    if in_cluster:
        raise ConfigurationError(
            f"the Redis at {address} is a Redis Cluster, which can't run scripts over keys of "
            "several slots: use a single Redis, or one with Sentinel"
        )
    if commands or places:
        user = client.connection_pool.connection_kwargs.get("username") or "default"
        rules = " ".join([*places, *(f"+{name}" for name in commands)])
        missing = [name.replace("|", " ").upper() for name in commands]
        missing += [_PLACES[rule[0]].format(rule[1:]) for rule in places]
        raise ConfigurationError(
            f"the user {user!r} of the Redis at {address} lacks rights that celery_actors needs: "
            f"{', '.join(missing)}. An administrator gives them with `ACL SETUSER {user} {rules}` "
            "(a command may also be disabled by rename-command in redis.conf); all that is needed "
            "is in docs/configuration.md"
        )


def _open(connection: RedisConnection) -> None:
    """Connect; wait in an outage, but not with a password that was never right.

    In a process that was connected once, a password that is refused is an outage: it was changed.
    """
    try:
        with at_most(0.0):
            connection.open()
    except redis.AuthenticationError:
        raise
    except (redis.RedisError, OSError) as error:
        if not is_outage(error):
            raise
        connection.open()


_PLACES = {"~": "the keys {}", "&": "the channels {}"}


def _refused(
    connection: RedisConnection, settings: Settings, serves: bool
) -> tuple[list[str], list[str], bool]:
    """Return the commands and the places (keys, channels) without a right; whether a cluster."""
    connection.send("MULTI")
    first = connection.reply(_ANSWER_SECONDS)
    if isinstance(first, Exception):
        if _is_refusal(str(first)):
            return ["multi"], [], False
        raise redis.ResponseError(str(first))
    prefix = settings.prefix
    asked = [(name, prefix) for name in _WORDS]
    if serves and settings.allow_plain:
        asked += [("setex", _PLAIN_KEYS), ("publish", _PLAIN_KEYS)]
    connection.send_all(
        [_command(name, place) for name, place in asked]
        + [("EXISTS", f"{prefix}1", f"{prefix}2"), ("DISCARD",)]
    )
    commands: dict[str, None] = {}
    places: dict[str, None] = {}
    for name, place in asked:
        answer = str(connection.reply(_ANSWER_SECONDS))
        if "keys used" in answer or "access a key" in answer:
            places[f"~{place}*"] = None
        elif "channels used" in answer or "access a channel" in answer:
            places[f"&{place}*"] = None
        elif _is_refusal(answer):
            commands[name] = None
    several, last = (str(connection.reply(_ANSWER_SECONDS)) for _ in range(2))
    if _is_refusal(last):
        commands["discard"] = None
    return list(commands), list(places), several.startswith(_OF_A_CLUSTER)


def _command(name: str, place: str) -> tuple[str | int, ...]:
    given = {"KEY": f"{place}rights", "CHANNEL": f"{place}rights"}
    return (*name.split("|"), *(given.get(str(word), word) for word in _WORDS[name]))


def _is_refusal(answer: str) -> bool:
    return "NOPERM" in answer or "permission" in answer or "unknown command" in answer
