"""``eventchain fleet``: who mines, how fast, and how long it will take."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eventchain.cli.common import config_option, console, json_option, note, print_json, printable
from eventchain.cli.fleet_table import shown
from eventchain.cli.worker import login_options

if TYPE_CHECKING:
    from eventchain_fleet.watch import Watch

LISTEN_SECONDS = 2.5
"""Every worker says that it is there within so long."""
DRAW_SECONDS = 1.0


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
        if watch and not as_json and sys.stdout.isatty():
            _draw(fleet, config)
        time.sleep(LISTEN_SECONDS)
        _print(fleet, config, as_json, indent=None if watch else 2)
        while watch:
            time.sleep(LISTEN_SECONDS)
            _print(fleet, config, as_json, indent=None)


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


def _print(fleet: Watch, config: Any, as_json: bool, indent: int | None) -> None:
    facts = _facts(fleet, config)
    if as_json:
        print_json(facts, indent=indent)
    else:
        screen = console()
        screen.print(_cropped(shown(facts, screen.width)))


class _Notices(logging.Handler):
    """The last thing that was logged: on the screen nothing else may be written."""

    last = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.last = f"{time.strftime('%H:%M:%S')} {printable(record.getMessage())}"


def _draw(fleet: Watch, config: Any) -> None:
    """The whole screen, again and again, until interrupted; as it was last it stays."""
    from rich.live import Live

    logger = logging.getLogger("eventchain")
    screen, notices = console(), _Notices()
    logger.addHandler(notices)
    lines: list[str] = []
    try:
        with Live(console=screen, screen=True, auto_refresh=False) as live:
            while True:
                width, height = screen.size
                lines = shown(_facts(fleet, config), width, height - bool(notices.last))
                live.update(_cropped([*lines, notices.last] if notices.last else lines), refresh=True)
                time.sleep(DRAW_SECONDS)
    finally:
        logger.removeHandler(notices)
        screen.print(_cropped(lines))


def _cropped(lines: Sequence[str]) -> Any:
    """A name from afar may be wider than it has characters."""
    from rich.text import Text

    return Text("\n".join(lines), no_wrap=True, overflow="ellipsis")
