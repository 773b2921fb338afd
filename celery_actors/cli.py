"""The command `celery-actors`: keeps a cluster up between programs, and looks at it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from celery_actors import cli_state
from celery_actors.local.address import (
    BACKEND_VARIABLE,
    BROKER_VARIABLE,
    KEY_FILE_VARIABLE,
    ClusterAddress,
)
from celery_actors.local.errors import LocalClusterError
from celery_actors.local.node_options import NodeOptions

if TYPE_CHECKING:
    from celery_actors.local.persistent import BegunPart


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Start, look at and stop a cluster of actors."""


for _command in (cli_state.list_, cli_state.get, cli_state.summary, cli_state.metrics):
    main.add_command(_command)


class _JsonType(click.ParamType[Mapping[str, Any]]):
    """A JSON object whose values are all of one kind."""

    name = "json"

    def __init__(self, kind: type[float] | type[str], example: str) -> None:
        self._kind = kind
        self._example = example

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Mapping[str, Any]:
        if isinstance(value, Mapping):
            return value
        try:
            parsed = json.loads(value)
            return {str(name): self._kind(each) for name, each in parsed.items()}
        except (ValueError, TypeError, AttributeError):
            self.fail(f"expected JSON such as {self._example}, got {value!r}", param, ctx)


def _node_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(
        [
            click.option("--name", help="The node's name; by default made of the host's."),
            click.option("--num-cpus", type=click.FloatRange(min=0), help="By default counted."),
            click.option("--num-gpus", type=click.FloatRange(min=0), help="By default from NVML."),
            click.option(
                "--resources",
                type=_JsonType(float, '{"disk": 2}'),
                default={},
                help="JSON object.",
            ),
            click.option("--memory", type=click.IntRange(min=0), help="In bytes."),
            click.option(
                "--labels",
                type=_JsonType(str, '{"zone": "a"}'),
                default={},
                help="JSON object.",
            ),
        ]
    ):
        command = option(command)
    return command


@main.command()
@click.option("--head", is_flag=True, help="Start RabbitMQ, Redis and a node worker here.")
@click.option(
    "--address",
    "broker_url",
    metavar="URL",
    help=f"Join the cluster at this broker (by default {BROKER_VARIABLE}) with a node worker.",
)
@click.option(
    "--result-backend",
    metavar="URL",
    help=f"The Redis of the cluster to join (by default {BACKEND_VARIABLE}).",
)
@click.option(
    "--key-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"The file with the secret of the cluster to join (by default {KEY_FILE_VARIABLE}).",
)
@click.option("--no-node", is_flag=True, help="With --head: only the servers.")
@_node_options
def start(
    head: bool,
    broker_url: str | None,
    result_backend: str | None,
    key_file: Path | None,
    no_node: bool,
    name: str | None,
    num_cpus: float | None,
    num_gpus: float | None,
    resources: Mapping[str, float],
    memory: int | None,
    labels: Mapping[str, str],
) -> None:
    """Start a cluster (--head), or a node worker for one that runs elsewhere (--address)."""
    node = NodeOptions(name, num_cpus, num_gpus, resources, memory, labels)
    if head == (broker_url is not None):
        raise click.UsageError("give either --head or --address URL")
    if head:
        _start_head(node, with_node=not no_node)
    else:
        _start_node(_address(broker_url, result_backend, key_file), node)


def _start_head(node: NodeOptions, *, with_node: bool) -> None:
    from rich.console import Console

    from celery_actors.local import persistent
    from celery_actors.local.address import SESSION_DIR_VARIABLE

    console = Console(highlight=False)
    try:
        with console.status("starting RabbitMQ and Redis") as status:
            part = persistent.start_head(node, with_node=with_node, progress=status.update)
    except (LocalClusterError, OSError) as error:
        raise click.ClickException(str(error)) from error
    console.print("[green]The cluster is up.[/green] Programs of yours find it with `init()`.")
    _print_parts([part])
    console.print("Programs that are not yours or run elsewhere need:")
    for variable, value in part.address.environment().items():
        if variable == SESSION_DIR_VARIABLE:
            continue  # the cluster's end takes what bears it along: shells, `stop` itself
        # Not through rich, which would wrap what is to be copied.
        click.echo(f"  export {variable}={value}")
    console.print("End it with: celery-actors stop")


def _address(
    broker_url: str | None, result_backend: str | None, key_file: Path | None
) -> ClusterAddress:
    broker_url = broker_url or os.environ.get(BROKER_VARIABLE)
    result_backend = result_backend or os.environ.get(BACKEND_VARIABLE)
    if key_file is None and os.environ.get(KEY_FILE_VARIABLE):
        key_file = Path(os.environ[KEY_FILE_VARIABLE])
    if not (broker_url and result_backend and key_file):
        raise click.UsageError(
            "joining a cluster takes --address, --result-backend and --key-file, or the variables "
            f"{BROKER_VARIABLE}, {BACKEND_VARIABLE} and {KEY_FILE_VARIABLE}"
        )
    if not key_file.is_file():
        raise click.UsageError(f"there is no key file {key_file}; copy it from the cluster's head")
    return ClusterAddress(broker_url, result_backend, key_file)


def _start_node(address: ClusterAddress, node: NodeOptions) -> None:
    from celery_actors.local import persistent

    try:
        part = persistent.start_node(address, node)
    except (LocalClusterError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo("The node worker is starting.")
    _print_parts([part])


@main.command()
def stop() -> None:
    """End all that `start` began here, and remove its files."""
    from celery_actors.local import persistent

    try:
        stopped = persistent.stop()
    except (LocalClusterError, OSError) as error:
        raise click.ClickException(str(error)) from error
    if not stopped:
        click.echo("Nothing was running.")
    for part in stopped:
        click.echo(f"Stopped the {part.kind} in {part.session_dir}.")


@main.command()
def status() -> None:
    """Show what `start` began here; status 1 when nothing is up."""
    from celery_actors.local import persistent

    try:
        parts = persistent.status()
    except OSError as error:
        raise click.ClickException(str(error)) from error
    if not parts:
        click.echo("No cluster is up. Start one with: celery-actors start --head")
        raise SystemExit(1)
    _print_parts(parts)


def _print_parts(parts: list[BegunPart]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("part", "program", "state", "process", box=None, pad_edge=False)
    for part in parts:
        for program in part.programs().values():
            state = program.state.lower()
            colour = "green" if state == "running" else "yellow"
            table.add_row(
                part.kind, program.name, f"[{colour}]{state}[/{colour}]", program.description
            )
    console = Console(highlight=False)
    console.print(table)
    for part in parts:
        click.echo(f"{part.kind}: {part.session_dir}")
