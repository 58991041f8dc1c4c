"""``eventchain fleet``: who mines, how fast, and how long it will take."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eventchain.cli.common import (
    about,
    config_option,
    console,
    counted,
    duration,
    json_option,
    note,
    print_json,
    printable,
    quantity,
)
from eventchain.cli.worker import login_options

if TYPE_CHECKING:
    from eventchain_fleet.watch import Watch

LISTEN_SECONDS = 2.5
"""Every worker says that it is there within so long."""


@click.command("fleet")
@config_option
@login_options
@click.option("--watch", is_flag=True, help="Go on, every two seconds, until interrupted.")
@click.option("--listen", metavar="HOST:PORT", help="Serve /metrics and /healthz there; with --watch.")
@json_option
def command(
    config_file: Path,
    nats: str | None,
    watch: bool,
    listen: str | None,
    as_json: bool,
    **files: str | None,
) -> None:
    """Show the fleet's workers, their rates and the expected end.

    NATS is where the configuration's [fleet] says, unless --nats names it; then no configuration is needed,
    and the end of what the chain has to mine is not known. A live table on a terminal with --watch.
    """
    from eventchain_fleet.connection import Login
    from eventchain_fleet.watch import Watch

    from eventchain.config import Config
    from eventchain.errors import ConfigError
    from eventchain.service.pages import served_pages

    config = None if nats else Config.load(config_file)
    if config is not None:
        files = {name: file or getattr(config.fleet, name) for name, file in files.items()}
        nats = config.fleet.nats
        if nats is None:
            raise ConfigError(f"{config_file} names no NATS server", hint="add nats to [fleet], or --nats")
    assert nats is not None
    if listen and not watch:
        raise click.UsageError("--listen goes with --watch")
    with closing(Watch(Login(nats, **files))) as fleet, ExitStack() as stack:
        if listen:
            port = stack.enter_context(served_pages(fleet, lambda: _health(fleet), listen))
            note(f"listening on port {port}")
        time.sleep(LISTEN_SECONDS)
        if not watch:
            _print(fleet, config, as_json)
        elif as_json or not sys.stdout.isatty():
            while True:
                _print(fleet, config, as_json, indent=None)
                time.sleep(LISTEN_SECONDS)
        else:
            _show(fleet, config)


def _health(fleet: Watch) -> tuple[bool, dict[str, Any]]:
    there = sum(row.there for row in fleet.rows())
    return there > 0, {"healthy": there > 0, "devices": there, "coordinators": len(fleet.coordinators())}


def _facts(fleet: Watch, config: Any) -> dict[str, Any]:
    facts = fleet.as_dict()
    hashes = _hashes_left(config) if config is not None else None
    rate = facts["rate"]
    return facts | {
        "hashes_left": hashes,
        "seconds_left": hashes / rate if hashes is not None and rate else None,
    }


def _hashes_left(config: Any) -> int:
    """Expected hashes of the blocks that are linked and not mined."""
    from eventchain.chain.view import ChainView
    from eventchain.chainstores import open_chain_store
    from eventchain.formats.header import work_of

    with closing(open_chain_store(config.chain)) as store, store.snapshot():
        trunk = ChainView(store).trunk
        return trunk.unsealed * work_of(trunk.policy.bits)


def _print(fleet: Watch, config: Any, as_json: bool, indent: int | None = 2) -> None:
    facts = _facts(fleet, config)
    if as_json:
        print_json(facts, indent=indent)
    else:
        screen = console()
        for part in _table(facts):
            screen.print(part)


def _show(fleet: Watch, config: Any) -> None:
    from rich.console import Group
    from rich.live import Live

    with Live(console=console(), refresh_per_second=1) as live:
        while True:
            live.update(Group(*_table(_facts(fleet, config))))
            time.sleep(LISTEN_SECONDS)


def _table(facts: dict[str, Any]) -> list[Any]:
    from rich.table import Table

    table = Table("worker", "group", "device", box=None, pad_edge=False)
    for heading in ("rate", "pieces", "errors", "last seen"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for row in facts["workers"]:
        state = "" if row["there"] else "gone"
        if row["shut_out"] is not None:
            state = f"shut out: {row['shut_out']}"
        table.add_row(
            printable(row["worker"]), printable(row["group"]), printable(row["device"]),
            quantity(row["rate"], "H/s"), f"{row['pieces']:,}", f"{row['errors']:,}",
            f"{duration(row['seen'])} ago", printable(state),
        )  # fmt: skip
    workers = {row["worker"] for row in facts["workers"] if row["there"]}
    total = f"{counted(len(workers), 'worker')}, {quantity(facts['rate'], 'H/s')}"
    coordinators = counted(len(facts["coordinators"]), "coordinator")
    total += f"; {coordinators}, {counted(facts['pieces_out'], 'piece')} out"
    if facts["hashes_left"] is not None:
        left = facts["seconds_left"]
        total += f"; {quantity(facts['hashes_left'], 'hashes')} to go"
        total += f", {about(left)}" if left is not None else ""
    return [table, total] if facts["workers"] else [total]
