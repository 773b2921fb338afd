"""The tables of states by themselves, and that the scripts are held to them."""

from __future__ import annotations

from typing import get_args

import pytest
import redis

from celery_actors.control.states import (
    ACTOR_TRANSITIONS,
    NODE_TRANSITIONS,
    RAY_NAMES,
    ActorState,
    NodeState,
)

from .cluster import Cluster


def test_the_tables_name_every_state_and_nothing_else() -> None:
    states = set(get_args(ActorState))
    assert set(ACTOR_TRANSITIONS) == states == set(RAY_NAMES)
    assert all(followers <= states for followers in ACTOR_TRANSITIONS.values())
    assert set(NODE_TRANSITIONS) == set(get_args(NodeState))


def test_every_state_is_reached_and_all_end_dead() -> None:
    reached: set[str] = {"PENDING", "UNREADY"}
    for _ in ACTOR_TRANSITIONS:
        reached |= {after for state in reached for after in ACTOR_TRANSITIONS[state]}  # type: ignore[index]
    assert reached == set(ACTOR_TRANSITIONS)
    assert [state for state, after in ACTOR_TRANSITIONS.items() if not after] == ["DEAD"]
    assert all("DEAD" in after for state, after in ACTOR_TRANSITIONS.items() if state != "DEAD")


def test_scripts_refuse_what_the_table_does_not_have(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from celery_actors.control import scripts

    monkeypatch.setattr(
        scripts, "ACTOR_TRANSITIONS", {**ACTOR_TRANSITIONS, "PENDING": frozenset({"DEAD"})}
    )
    scripts._load.cache_clear()
    try:
        cluster.node("n1", CPU=1)
        with pytest.raises(redis.ResponseError, match="PENDING -> PLACED is not in the table"):
            cluster.actor()
    finally:
        scripts._load.cache_clear()
