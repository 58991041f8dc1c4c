"""``eventchain worker``: lets this host mine for a fleet."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from eventchain.cli.common import Percentage, announce, counted, note, print_json, quantity

if TYPE_CHECKING:
    from eventchain_fleet.worker import Worker

F = TypeVar("F", bound=Callable[..., Any])
LOWEST_PRIORITY = 19


def login_options(command: F) -> F:
    """Where NATS is and how to log in."""
    for name, text in (
        ("--tls-key", "Its key, a PEM file."),
        ("--tls-cert", "A certificate to log in with, a PEM file."),
        ("--tls-ca", "Whose certificates to trust, a PEM file."),
        ("--nkey", "Log in with the seed in this file."),
        ("--creds", "Log in with this credentials file."),
    ):
        command = click.option(name, metavar="FILE", help=text)(command)
    return click.option(
        "--nats", envvar="EVENTCHAIN_NATS", show_envvar=True, metavar="URL",
        help="The NATS server, as nats://host:4222; several with commas.",
    )(command)  # fmt: skip


@click.command("worker")
@login_options
@click.option(
    "--group", default="workers", show_default=True, help="Which workers this one belongs to: docs/fleet.md."
)
@click.option("--backend", default="auto", show_default=True, metavar="NAME", help="What searches here.")
@click.option(
    "--device", metavar="SEL", help="Its devices: indices as 0,2 or a part of a name. Default: all."
)
@click.option(
    "--duty", type=Percentage(), default="100%", show_default=True, metavar="SHARE",
    help="How much of the time devices work, as 30%.",
)  # fmt: skip
@click.option("--nice", is_flag=True, help="Yield processors to whatever else wants them.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line, every two seconds.")
def command(
    nats: str | None,
    group: str,
    backend: str,
    device: str | None,
    duty: int,
    nice: bool,
    as_json: bool,
    **files: str | None,
) -> None:
    """Search for a fleet, until it is stopped.

    It dials the NATS server and opens no port; it needs no configuration file, no database and no chain, and
    is given nothing but headers to search. It may come and go at any moment.
    """
    from eventchain_fleet.connection import Login, check_group
    from eventchain_fleet.worker import Worker

    from eventchain.mining.backends import choose
    from eventchain.service.log import log_to_stderr

    if nats is None:
        raise click.UsageError("Name the NATS server: --nats nats://host:4222")
    login, group = Login(nats, **files), check_group(group)
    if nice:
        os.nice(LOWEST_PRIORITY)
    if backend.casefold() in ("fleet", "stratum"):
        raise click.UsageError("A worker searches with a backend of its own host.")
    choice = choose(backend, device)
    announce(choice)
    log_to_stderr(as_json=as_json)
    worker = Worker(login, group, choice, duty / 100, _print_json if as_json else _print_line)
    note(f"worker {worker.name} of {group}")
    worker.run()


def _state(worker: Worker) -> dict[str, Any]:
    units = worker.units
    return {
        "worker": worker.name,
        "hashes_per_second": sum(unit.rate for unit in units),
        "pieces": sum(unit.pieces for unit in units),
        "errors": sum(unit.errors for unit in units),
    }


def _print_json(worker: Worker) -> None:
    print_json(_state(worker), indent=None)


def _print_line(worker: Worker) -> None:
    """Redrawn in place, on a terminal only."""
    if sys.stderr.isatty():
        state = _state(worker)
        pieces, rate = counted(state["pieces"], "piece"), quantity(state["hashes_per_second"], "H/s")
        click.echo(f"\r{pieces} searched, {rate}   ", err=True, nl=False)
