"""The queues and exchanges of a local cluster's broker."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from celery_actors.local.rabbitmq import NODE_NAME, find_program

__all__ = ["queues_and_exchanges"]


def queues_and_exchanges(session_dir: Path) -> tuple[list[str], list[str]]:
    """Ask the broker's Erlang node itself: milliseconds, where rabbitmqctl takes seconds."""
    erl = find_program("erl")
    assert erl is not None
    root = Path(erl).resolve().parent.parent
    caller = next(root.glob("**/bin/erl_call"))
    directory = session_dir / "rabbitmq"
    start = (directory / "start").read_text()
    epmd = re.search(r"^export ERL_EPMD_PORT=(\d+)$", start, re.MULTILINE)
    assert epmd is not None
    expression = (
        "V = <<47>>, Names = fun(L) -> [binary_to_list(element(4, N)) || N <- L] end,"
        " {Names(rabbit_amqqueue:list_names(V)), [], Names(rabbit_exchange:list_names())}."
    )
    cookie = (directory / ".erlang.cookie").read_text()
    answer = subprocess.run(
        [str(caller), "-c", cookie, "-n", NODE_NAME, "-e"],
        input=expression + "\n",
        env={**os.environ, "ERL_EPMD_PORT": epmd[1]},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    ).stdout
    if not answer.startswith("{ok,"):
        raise RuntimeError(f"the broker's node answered {answer!r}")
    queues, _, exchanges = answer.partition("], [], [")
    return _names(queues), [name for name in _names(exchanges) if name]


def _names(answer: str) -> list[str]:
    # As strings: of a binary erl_call shows only the beginning.
    return sorted(re.findall(r'"([^"]*)"', answer))
