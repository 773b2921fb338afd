"""What benchmarks and tests ask of a local cluster's RabbitMQ itself."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from celery_actors.local.rabbitmq import NODE_NAME, find_program

__all__ = ["ask_broker", "queues_and_exchanges"]


def ask_broker(session_dir: Path, expression: str) -> str:
    """Evaluate an Erlang expression in the broker's node: milliseconds, rabbitmqctl takes seconds.

    Raises:
        RuntimeError: The expression failed.
    """
    erl = find_program("erl")
    assert erl is not None
    caller = next(Path(erl).resolve().parent.parent.glob("**/bin/erl_call"))
    directory = session_dir / "rabbitmq"
    epmd = re.search(r"ERL_EPMD_PORT=(\d+)", (directory / "start").read_text())
    assert epmd is not None
    cookie = (directory / ".erlang.cookie").read_text()
    answer = subprocess.run(
        [str(caller), "-c", cookie, "-n", NODE_NAME, "-e"],
        input=expression + "\n",
        env={**os.environ, "ERL_EPMD_PORT": epmd[1]},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    if not answer.startswith("{ok,"):
        raise RuntimeError(f"the broker's node answered {answer!r}")
    return answer


def queues_and_exchanges(session_dir: Path) -> tuple[list[str], list[str]]:
    """Return the names of the broker's queues and exchanges."""
    answer = ask_broker(
        session_dir,
        "V = <<47>>, Names = fun(L) -> [binary_to_list(element(4, N)) || N <- L] end,"
        " {Names(rabbit_amqqueue:list_names(V)), [], Names(rabbit_exchange:list_names())}.",
    )
    queues, _, exchanges = answer.partition("], [], [")
    return _names(queues), [name for name in _names(exchanges) if name]


def _names(answer: str) -> list[str]:
    # As strings: of a binary erl_call shows only the beginning.
    return sorted(re.findall(r'"([^"]*)"', answer))
