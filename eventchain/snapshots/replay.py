"""Replaying the sealed events of a branch through projections, with stops at sizes of the log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from eventchain.chain.feed import BATCH_BYTES, Feed, Stretch
from eventchain.formats.event import joined
from eventchain.projections.fold import Fold, Run

ROWS = 131_072
"""Events that are folded at a time."""


def replay(
    feed: Feed,
    runs: Sequence[Run],
    end: int,
    stops: Iterable[int] = (),
    progress: Callable[[int], None] = lambda events: None,
) -> Iterator[int]:
    """Take runs forward together, in one pass over the events up to ``end``, and yield each of the stops that
    lies on the way: the log's size at which the runs then are (those that had come further are still there).

    A run that fails stops, with its ``error`` set. ``progress`` is told of events as they are done. Raises
    StoreError at an event that is missing or was altered.
    """
    fold = Fold(runs)
    at = min((run.size for run in fold.active), default=end)
    left = sorted({stop for stop in stops if at < stop <= end})
    for first, batch in _joined(feed.stretches(at, end)):
        while left and left[0] <= first:  # events before this one were erased, rows and all
            yield left.pop(0)
        at = first
        _reach(fold, at)
        while batch.num_rows:
            part = batch.slice(0, left[0] - at) if left else batch
            fold.feed(part, at, progress)
            at += part.num_rows
            batch = batch.slice(part.num_rows)
            if not fold.active:
                return
            if left and left[0] == at:
                yield left.pop(0)
    _reach(fold, end)
    yield from left


def _joined(stretches: Iterator[Stretch]) -> Iterator[Stretch]:
    """Those that follow one another, in large batches: the larger, the better projections work on columns."""
    parts: list[Stretch] = []
    rows = size = 0
    for stretch in stretches:
        if parts and (stretch.first != parts[0].first + rows or rows >= ROWS or size >= BATCH_BYTES):
            yield Stretch(parts[0].first, joined([part.batch for part in parts]))
            parts, rows, size = [], 0, 0
        parts.append(stretch)
        rows += stretch.batch.num_rows
        size += stretch.batch.nbytes
    if parts:
        yield Stretch(parts[0].first, joined([part.batch for part in parts]))


def _reach(fold: Fold, size: int) -> None:
    for run in fold.active:
        run.size = max(run.size, size)
