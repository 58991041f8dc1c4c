"""Replaying the sealed events of a branch through projections, with stops at sizes of the log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from eventchain.chain.feed import Feed
from eventchain.projections.fold import Fold, Run


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
    for first, batch in feed.stretches(at, end):
        while left and left[0] <= first:  # events before this one were erased, rows and all
            yield left.pop(0)
        at = first
        _reach(fold, at)
        while batch.num_rows:
            part = batch.slice(0, left[0] - at) if left else batch
            fold.feed(part, at)
            at += part.num_rows
            batch = batch.slice(part.num_rows)
            progress(part.num_rows)
            if not fold.active:
                return
            if left and left[0] == at:
                yield left.pop(0)
    _reach(fold, end)
    yield from left


def _reach(fold: Fold, size: int) -> None:
    for run in fold.active:
        run.size = max(run.size, size)
