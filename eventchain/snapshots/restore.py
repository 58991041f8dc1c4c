"""The state of a projection at a sealed block: the newest snapshot that fits, and the events since."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from eventchain.chain.feed import Feed
from eventchain.chain.view import ChainView
from eventchain.contracts.chain_store import ChainStore
from eventchain.contracts.event_store import EventStore
from eventchain.errors import ProjectionError
from eventchain.projections.fold import Run
from eventchain.snapshots.branch import SnapshotBranch, Stored
from eventchain.snapshots.replay import replay
from eventchain.snapshots.series import Series, branch_of


@dataclass(frozen=True, slots=True)
class Restored:
    """A state. height: the sealed block of the projection's parent whose state it is; size: events of the
    parent's log up to there; snapshot: where it began, None where at the first event; replayed: events since;
    notice: why the newest snapshot was not used, or empty."""

    run: Run
    height: int
    size: int
    snapshot: Stored | None
    replayed: int
    notice: str

    @property
    def state(self) -> Any:
        return self.run.state

    @property
    def dump(self) -> bytes:
        """The state's bytes, made anew each time. Raises ProjectionError where the projection cannot."""
        return self.run.dump()


def restore(
    store: ChainStore,
    events: EventStore,
    series: Series,
    at: int | None = None,
    progress: Callable[[int], None] = lambda events: None,
) -> Restored:
    """The state at the parent's sealed block of this height, at its newest one where none is given.

    Raises ProjectionError where there is no such block or the projection fails, StoreError at an event or a
    snapshot that is missing or was altered.
    """
    feed, view = _parent(store, events, series)
    height = view.sealed_height if at is None else at
    if not view.first <= height <= view.sealed_height:
        raise ProjectionError(
            f"block {height} of {feed.branch.origin} is not sealed, so it has no state",
            hint=f"its sealed blocks are {view.first} to {view.sealed_height}",
        )
    size = view.size(height)
    run, snapshot, notice = begun(store, events, series, height)
    first = run.size
    for _ in replay(feed, [run], size, (), progress):
        pass
    if run.error is not None:
        raise run.error
    return Restored(run, height, size, snapshot, size - first, notice)


def height_by(store: ChainStore, events: EventStore, series: Series, time: float) -> int:
    """The newest sealed block of the projection's parent that was built at a time (unix seconds) or before
    it. Raises ProjectionError where all were built later."""
    feed, view = _parent(store, events, series)
    height = min(view.built_by(time), view.sealed_height)
    if height < view.first:
        raise ProjectionError(
            f"{feed.branch.origin} had no sealed block yet at that time",
            hint=f"its first one was built at {datetime.fromtimestamp(view.said(view.first).built, UTC)}",
        )
    return height


def _parent(store: ChainStore, events: EventStore, series: Series) -> tuple[Feed, ChainView]:
    """The events that the projection sees, and the blocks that they are in."""
    branch = branch_of(store, series.parent)
    if branch is None:
        raise ProjectionError(
            f"there are no snapshots of {series.spec.of} that {series.name} could be a projection of",
            hint=f"`eventchain snapshot take {series.spec.of}` takes one",
        )
    feed = Feed(store, events, branch)
    return feed, ChainView(store, branch, feed.prefix)


def begun(
    store: ChainStore, events: EventStore, series: Series, height: int | None = None
) -> tuple[Run, Stored | None, str]:
    """The projection as far as a snapshot of a block at this height or below takes it, that snapshot, and
    why the newest one was not used, or an empty string. Raises ProjectionError for one that cannot be loaded.

    Where the newest one does not fit, one by the same code may lie before it, as when a change was taken
    back. Older ones are looked at in steps that double: few are read, and the replay is at most about twice
    as long as it had to be."""
    branch = branch_of(store, series.origin)
    taken = SnapshotBranch(store, events, branch) if branch else None
    index = taken.newest(height) if taken else None
    notice, step = "", 1
    while taken is not None and index is not None and index >= 0:
        snapshot = taken.read(index)
        misfit = series.misfit(snapshot.about)
        if not misfit:
            return _loaded(series, snapshot), snapshot, notice
        notice = notice or f"the snapshot of block {snapshot.height} is not used: {misfit}"
        index, step = index - step, 2 * step
    return series.begin(), None, f"{notice}; all events are replayed" if notice else ""


def _loaded(series: Series, snapshot: Stored) -> Run:
    try:
        return series.begin(snapshot.state, snapshot.about.size)
    except ProjectionError as error:
        raise ProjectionError(
            f"the snapshot of block {snapshot.height} cannot be loaded: {error.message}",
            hint="`load` must read what `dump` wrote",
        ) from error
