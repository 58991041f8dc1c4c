"""Progress of a sealing run, for people, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from eventchain.cli.common import Ticker, console, counted, duration, note, quantity

if TYPE_CHECKING:
    from eventchain.chain.sealing import Progress, Sealer


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
        if hashes and not progress.rate:
            return None
        mining = hashes / progress.rate if progress.rate else None
        elapsed = time.monotonic() - self._began
        building = rest * elapsed / (position - self._start) if position > self._start else None
        known = [seconds for seconds in (mining, building) if seconds is not None]
        return max(known) if known else None


@contextmanager
def shown(sealer: Sealer, head: int | None, block_events: int) -> Iterator[Callable[[Progress], None]]:
    """A callback that shows progress: a line that is redrawn, or plain lines every few seconds."""
    outlook = Outlook(sealer, head, block_events)

    def line(progress: Progress) -> str:
        sealed = f"{counted(progress.events_sealed, 'event')} sealed, {quantity(progress.rate, 'H/s')}, "
        if progress.events_replayed:  # nobody knows how long what is due for snapshots takes
            return f"{sealed}{counted(progress.events_replayed, 'event')} replayed for snapshots"
        left = outlook.seconds()
        return f"{sealed}{duration(left) if left is not None else '?'} left"

    if not sys.stderr.isatty():
        due = Ticker()

        def plain(progress: Progress) -> None:
            if due():
                note(f"{progress.blocks_sealed:,} of {counted(_total(progress), 'block')}, {line(progress)}")

        def _total(progress: Progress) -> int:
            return progress.blocks_sealed + outlook.blocks_left()

        yield plain
        return

    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("blocks"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=console(err=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        due = Ticker(0.1)

        def drawn(progress: Progress) -> None:
            if due():
                total = progress.blocks_sealed + outlook.blocks_left()
                bar.update(task, completed=progress.blocks_sealed, total=total, description=line(progress))

        yield drawn
