"""Runs the Lua scripts beside this module.

Before a script and its parts (:mod:`celery_actors.lua_parts`) stand the tables of states and the
names of the records' fields, which are Python's to define.

Guarantee: a script is sent whole whenever Redis does not know it (after a restart or a
``SCRIPT FLUSH``), so a caller never sees NOSCRIPT.  A connection that is lost before the
answer came makes redis-py send it again: every script is written so that running twice
with the same arguments does no more than running once.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, cast

import redis
from redis.exceptions import NoScriptError

from celery_actors.control.records import GROUP_FIELDS, RECORD_FIELDS
from celery_actors.control.states import ACTOR_TRANSITIONS, GROUP_TRANSITIONS
from celery_actors.lua_parts import assemble

Argument = str | bytes | int


class Scripts:
    """Runs scripts by name on one Redis, for one key prefix."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        if client.get_encoder().decode_responses:
            raise ValueError("the control records need a Redis client that returns bytes")
        self._redis = client
        self._prefix = prefix

    def run(self, name: str, *arguments: Argument) -> Any:
        """Run ``lua/{name}.lua``; what it returned, as redis-py reads it."""
        source, digest = _load(name)
        # Scripts know no randomness: what they need to make ids from comes along.
        given = (self._prefix, secrets.token_hex(8), *arguments)
        try:
            return self._redis.evalsha(digest, 0, *cast("tuple[str, ...]", given))
        except NoScriptError:
            return self._redis.eval(source, 0, *cast("tuple[str, ...]", given))


def load_all() -> None:
    """Read all scripts now: the actor processes that fork from this one then share them."""
    for file in (files(__package__) / "lua").iterdir():
        _load(file.name.removesuffix(".lua"))


@cache
def _load(name: str) -> tuple[str, str]:
    source = _preamble() + "\n" + assemble("celery_actors.control", name)
    return source, hashlib.sha1(source.encode()).hexdigest()


def _preamble() -> str:
    return (
        f"local ALLOWED = {_table(ACTOR_TRANSITIONS)}\n"
        f"local GROUP_ALLOWED = {_table(GROUP_TRANSITIONS)}\n"
        f"local RECORD = {_names(RECORD_FIELDS)}\n"
        f"local GROUP_RECORD = {_names(GROUP_FIELDS)}\n"
        "local ENTROPY = ARGV[2]\n"
    )


def _table(transitions: Mapping[Any, Iterable[str]]) -> str:
    rows = ",\n".join(
        f"  {state} = {{ {', '.join(f'{follower} = true' for follower in sorted(followers))} }}"
        for state, followers in transitions.items()
    )
    return f"{{\n{rows}\n}}"


def _names(fields: Iterable[str]) -> str:
    quoted = ", ".join(f"'{field}'" for field in fields)
    return f"{{ {quoted} }}"
