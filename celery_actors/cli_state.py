"""`celery-actors list`, `get`, `summary` and `metrics`: looking at a cluster."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from celery_actors.state.schema import StateSchema

__all__ = ["get", "list_", "metrics", "summary"]

_KINDS = ("actors", "jobs", "nodes", "placement-groups", "tasks", "workers")
_FORMATS = ("table", "json", "yaml")


def _shared(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option(
            "--timeout",
            type=click.FloatRange(min=0, min_open=True),
            default=30.0,
            show_default=True,
            help="Seconds to wait for processes that are asked.",
        ),
        click.option("--address", help="The broker's URL (by default as `init()` finds it)."),
        click.option(
            "--format",
            "form",
            type=click.Choice(_FORMATS),
            default="table",
            show_default=True,
        ),
    ):
        command = option(command)
    return command


@click.command("list")
@click.argument("kind", type=click.Choice(_KINDS))
@click.option(
    "--filter",
    "-f",
    "filters",
    multiple=True,
    metavar="FIELD=VALUE",
    help='Or "FIELD!=VALUE"; may be repeated, then all must hold.',
)
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--detail", is_flag=True, help="Show all fields.")
@_shared
def list_(
    kind: str,
    filters: Sequence[str],
    limit: int,
    detail: bool,
    form: str,
    address: str | None,
    timeout: float,
) -> None:
    """List actors, tasks, nodes, jobs or workers."""
    from celery_actors import state
    from celery_actors.state.filters import parse_filter

    listing = getattr(state, f"list_{kind.replace('-', '_')}")
    with _explained():
        states: list[StateSchema] = listing(
            address, [parse_filter(text) for text in filters], limit, timeout, detail, False
        )
    columns = states[0].list_columns(detail) if states else []
    rows = [{name: each[name] for name in columns} for each in states]
    if form != "table":
        _print(rows, form)
    elif not rows:
        click.echo(f"No {kind}.")
    else:
        _print_table(rows)
        if len(rows) == limit:
            click.echo(f"The first {limit}; more with --limit.", err=True)


@click.command()
@click.argument("kind", type=click.Choice(_KINDS))
@click.argument("id_", metavar="ID")
@_shared
def get(kind: str, id_: str, form: str, address: str | None, timeout: float) -> None:
    """Show one actor, task, node, job or worker with all its fields; status 1: there is none."""
    from celery_actors import state

    with _explained():
        found = getattr(state, f"get_{kind[:-1].replace('-', '_')}")(id_, address, timeout)
    if found is None:
        raise click.ClickException(f"there is no {kind[:-1]} {id_} (any more)")
    several = [each.asdict() for each in (found if isinstance(found, list) else [found])]
    if form == "table":
        for fields in several:
            _print_fields(fields)
    else:
        _print(several if len(several) > 1 else several[0], form)


@click.command()
@click.argument("kind", type=click.Choice(("actors", "tasks")))
@_shared
def summary(kind: str, form: str, address: str | None, timeout: float) -> None:
    """Count actors by class, or tasks by function, and by state."""
    from celery_actors import state

    with _explained():
        counted = getattr(state, f"summarize_{kind}")(address, timeout, False)["cluster"]
    if form != "table":
        _print(counted, form)
        return
    by = "class" if kind == "actors" else "function"
    states = sorted({s for each in counted["summary"].values() for s in each["state_counts"]})
    rows = [
        {by: name, **{s: each["state_counts"].get(s, 0) for s in states}}
        for name, each in sorted(counted["summary"].items())
    ]
    if rows:
        _print_table(rows)
    for name, total in counted.items():
        if name.startswith("total"):
            click.echo(f"{name.replace('_', ' ')}: {total}")


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=9180, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--address", help="The broker's URL (by default as `init()` finds it).")
def metrics(port: int, host: str, address: str | None) -> None:
    """Serve the metrics of the cluster for Prometheus, at /metrics, until interrupted."""
    from celery_actors.metrics.exporter import serve
    from celery_actors.state.source import open_source

    with _explained(), open_source(address) as source:
        source.control.waiting()  # says at once if Redis can't be used
        try:
            server, thread = serve(source.control, port, host)
        except OSError as error:
            raise click.ClickException(f"cannot listen on {host}:{port}: {error}") from error
        click.echo(f"http://{host}:{server.server_port}/metrics")
        try:
            thread.join()
        except KeyboardInterrupt:
            server.shutdown()


@contextmanager
def _explained() -> Iterator[None]:
    """Say what went wrong in one line, and warnings on standard error."""
    # Not with the module: what starts a cluster here needs none of it.
    import redis

    from celery_actors.client.broker import LOST
    from celery_actors.exceptions import ActorsError

    failures: tuple[type[Exception], ...] = (ActorsError, redis.RedisError, *LOST)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        yield
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    except failures as error:
        raise click.ClickException(str(error)) from error


def _print(value: Any, form: str) -> None:
    if form == "json":
        click.echo(json.dumps(value, indent=2, default=_plain))
    else:
        import yaml

        plain = json.loads(json.dumps(value, default=_plain))
        click.echo(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), nl=False)


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)


def _print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    names = list(rows[0])
    table = Table(*names, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(_shown(name, row[name]) for name in names))
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:  # for other programs: one line each, however long
        console.width = 10_000
    console.print(table)


def _print_fields(fields: Mapping[str, Any]) -> None:
    width = max(map(len, fields))
    for name, value in fields.items():
        click.echo(f"{name:<{width}}  {_shown(name, value)}".rstrip())


def _shown(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, int) and name.endswith(("_ms", "_time")):
        return datetime.fromtimestamp(value / 1000).isoformat(" ", "milliseconds")
    if isinstance(value, float) and value.is_integer():
        return f"{value:.0f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_shown(key, part)}" for key, part in value.items())
    return str(value)
