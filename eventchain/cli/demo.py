"""eventchain demo: a real application's events sealed, tampered with and caught."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import click

from eventchain.errors import EventChainError


@click.command("demo")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default="eventchain-demo",
    show_default=True,
    metavar="PATH",
    help="Where to put it: a folder that is empty or not there yet.",
)
@click.pass_context
def command(ctx: click.Context, folder: Path) -> None:
    """See a real application's events sealed, tampered with and caught.

    Runs a small bank that keeps its events in SQLite, seals them, edits the database behind the bank's back
    and verifies. Takes about half a minute and leaves everything in a folder. Exits with 1 when a change
    went unnoticed.
    """
    if find_spec("eventsourcing") is None:
        raise EventChainError(
            "the demo's bank needs the library eventsourcing",
            hint='pip install "eventsourcing>=9.5,<9.6"',
        )
    from rich.console import Console

    from eventchain.demo.story import Story, prepare

    if not Story(prepare(folder), Console(highlight=False, emoji=False)).tell():
        ctx.exit(1)
