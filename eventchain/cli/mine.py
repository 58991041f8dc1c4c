"""``eventchain mine``: seals the backlog."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eventchain.cli.common import (
    Ticker,
    announce,
    config_option,
    console,
    device_options,
    duration,
    json_option,
    note,
    print_json,
    quantity,
    say_set_aside,
)

if TYPE_CHECKING:
    from rich.console import Console

    from eventchain.chain.sealing import Progress, Sealer


@click.command("mine")
@config_option
@device_options
@click.option(
    "--block-events",
    type=click.IntRange(min=1),
    metavar="N",
    help="Most events in a block. Default: the configuration's; the policy may allow fewer.",
)
@click.option(
    "--link-only", is_flag=True, help="Build and link the blocks, and leave the mining to a later run."
)
@json_option
def command(
    config_file: Path,
    backend: str | None,
    device: str | None,
    block_events: int | None,
    link_only: bool,
    as_json: bool,
) -> None:
    """Seal every event that is not sealed yet.

    What is built and not mined yet is mined too.
    It can be interrupted at any moment, also by kill -9: what is mined is kept and the next run goes on.
    Blocks that were linked with --link-only may be mined elsewhere: on a copy of the chain store, by
    another host and another backend.
    """
    from eventchain.assembly import open_chain

    with open_chain(config_file) as chain:
        if link_only:
            sealing = chain.linking()
        else:
            choice = chain.choose(backend, device)
            announce(choice)
            sealing = chain.sealing(choice, say_set_aside)
        began = time.monotonic()
        try:
            with sealing as sealer:
                trunk = sealer.builder.trunk
                limit = block_events or chain.mining.block_events or trunk.policy.events
                head = chain.events.head()
                with _shown(sealer, head, limit, console(err=True)) as report:
                    (sealer.link_backlog if link_only else sealer.seal_backlog)(limit, report)
        except KeyboardInterrupt:
            note("What is sealed is kept; the next `eventchain mine` goes on from here.")
            raise
    _summary(sealer.progress, time.monotonic() - began, trunk.unsealed, link_only, as_json)


def _summary(progress: Progress, seconds: float, unsealed: int, link_only: bool, as_json: bool) -> None:
    events = progress.events_built if link_only else progress.events_sealed
    if as_json:
        keys = ("events_built", "events_sealed", "blocks_built", "blocks_sealed", "hashes", "sealed_position")
        everything = asdict(progress)
        print_json(
            {key: everything[key] for key in keys}
            | {
                "blocks_unsealed": unsealed,
                "seconds": round(seconds, 3),
                "events_per_second": round(events / seconds, 1),
                "mhs": round(progress.hashes / seconds / 1e6, 3),
            }
        )
        return
    if link_only:
        click.echo(
            f"linked {events:,} events in {progress.blocks_built:,} blocks in {duration(seconds)}; "
            f"{unsealed:,} blocks wait to be mined"
        )
        return
    click.echo(
        f"sealed {events:,} events in {progress.blocks_sealed:,} blocks in {duration(seconds)}: "
        f"{events / seconds:,.0f} events/s, {progress.hashes / seconds / 1e6:.2f} MH/s"
    )


# -- progress -----------------------------------------------------------------------------------------


class Outlook:
    """How long a sealing run still takes, from its pace so far."""

    def __init__(self, sealer: Sealer, head: int | None, block_events: int) -> None:
        from eventchain.formats.header import work_of

        self._sealer = sealer
        self._head = -1 if head is None else head
        self._block_events = min(block_events, sealer.builder.trunk.policy.events)
        self._work = work_of(sealer.builder.trunk.policy.bits)
        self._start = self._position()
        self._began = time.monotonic()

    def _position(self) -> int:
        position = self._sealer.builder.trunk.position
        return -1 if position is None else position

    def blocks_left(self) -> int:
        """Blocks to seal still; those not built yet as if every position held an event."""
        rest = max(0, self._head - self._position())
        return self._sealer.builder.trunk.unsealed + -(-rest // self._block_events)

    def seconds(self) -> float | None:
        """None while nothing is known of the pace."""
        progress, position = self._sealer.progress, self._position()
        rest = max(0, self._head - position)
        hashes = progress.expected_hashes + -(-rest // self._block_events) * self._work
        mining = hashes / progress.rate if progress.rate else None
        elapsed = time.monotonic() - self._began
        building = rest * elapsed / (position - self._start) if position > self._start else None
        known = [seconds for seconds in (mining, building) if seconds is not None]
        return max(known) if known else None


@contextmanager
def _shown(
    sealer: Sealer, head: int | None, block_events: int, out: Console
) -> Iterator[Callable[[Progress], None]]:
    """A callback that shows progress: a line that is redrawn, or plain lines every few seconds."""
    outlook = Outlook(sealer, head, block_events)

    def line(progress: Progress) -> str:
        left = outlook.seconds()
        return (
            f"{progress.events_sealed:,} events sealed, {quantity(progress.rate, 'H/s')}, "
            f"{duration(left) if left is not None else '?'} left"
        )

    if not out.is_terminal:
        due = Ticker()

        def plain(progress: Progress) -> None:
            if due():
                note(f"{progress.blocks_sealed:,} of {_total(progress):,} blocks, {line(progress)}")

        def _total(progress: Progress) -> int:
            return progress.blocks_sealed + outlook.blocks_left()

        yield plain
        return

    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("blocks"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=out, transient=True) as bar:
        task = bar.add_task("", total=None)
        due = Ticker(0.1)

        def drawn(progress: Progress) -> None:
            if due():
                total = progress.blocks_sealed + outlook.blocks_left()
                bar.update(task, completed=progress.blocks_sealed, total=total, description=line(progress))

        yield drawn
