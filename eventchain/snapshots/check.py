"""Checking snapshots: the events are replayed, and every state is compared byte for byte.

That events and blocks are the sealed ones is what ``eventchain.verify`` checks; here it is whether the states
follow from them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from eventchain.chain.feed import BATCH, Feed
from eventchain.chain.prefix import trunk_of
from eventchain.chain.view import ChainView, Event, events_of
from eventchain.contracts.chain_store import Branch, ChainStore
from eventchain.contracts.event_store import EventStore
from eventchain.erasure.records import Records
from eventchain.errors import StoreError
from eventchain.projections.fold import Run
from eventchain.snapshots.branch import SnapshotBranch, Stored
from eventchain.snapshots.difference import Change, differences, values_at
from eventchain.snapshots.replay import replay
from eventchain.snapshots.series import Series, branch_of

PATHS = 100
"""Differences of one snapshot that are looked into."""


@dataclass(frozen=True, slots=True)
class Checked:
    """One snapshot that was looked at. height: the block whose state it is; notice: why it was not compared;
    fault: what is wrong, in words, both empty when it is right. Where the state differs, changes: from the
    replayed to the stored one; since: the height of the last snapshot that was right, None for none; event:
    the first event since then by which the replay changes what differs, None where no event does."""

    series: Series
    height: int
    notice: str = ""
    fault: str = ""
    changes: tuple[Change, ...] = ()
    since: int | None = None
    event: Event | None = None


@dataclass
class _Progress:
    """One series on its way. indices: of its snapshots, by the size that they cover; right: the last one that
    was right."""

    series: Series
    taken: SnapshotBranch
    run: Run
    indices: dict[int, list[int]]
    right: Stored | None = None


def check(
    store: ChainStore,
    events: EventStore,
    series: Iterable[Series],
    progress: Callable[[int], None] = lambda events: None,
) -> Iterator[Checked]:
    """Every sealed snapshot of these series, in one pass over the events of each parent. Raises StoreError at
    an event that is missing or was altered, ProjectionError for a projection that cannot be used."""
    groups: dict[str, list[Series]] = defaultdict(list)
    for one in series:
        groups[one.parent].append(one)
    for parent, group in groups.items():
        branch = branch_of(store, parent)
        if branch is not None:
            yield from _Check(store, events, branch).group(group, progress)


class _Check:
    def __init__(self, store: ChainStore, events: EventStore, parent: Branch) -> None:
        self._store, self._events, self._parent = store, events, parent
        self._view = ChainView(store, parent)
        self._feed = Feed(store, events, parent)

    def group(self, group: list[Series], progress: Callable[[int], None]) -> Iterator[Checked]:
        going = []
        for series in group:
            branch = branch_of(self._store, series.origin)
            if branch is None:
                continue
            taken = SnapshotBranch(self._store, self._events, branch)
            indices: dict[int, list[int]] = defaultdict(list)
            for pin in taken.pins():
                indices[self._view.size(pin.height)].append(pin.number)
            going.append(_Progress(series, taken, series.begin(), indices))
        stops = {size for one in going for size in one.indices}
        runs = [one.run for one in going]
        for size in replay(self._feed, runs, max(stops, default=0), stops, progress):
            for one in going:
                for index in one.indices.get(size, ()):
                    yield self._compared(one, index)
        for one in going:
            if one.run.error is not None:
                raise one.run.error

    def _compared(self, one: _Progress, index: int) -> Checked:
        height = one.taken.pinned(index).height
        try:
            stored = one.taken.read(index)
        except StoreError as error:
            return Checked(one.series, height, fault=error.message)
        if misfit := one.series.misfit(stored.about):
            one.right = None  # what came before is of another projection
            return Checked(one.series, height, notice=misfit)
        replayed = one.run.dump()
        if replayed == stored.state:
            one.right = stored
            return Checked(one.series, height)
        if erased := self._erased(one.right.about.size if one.right else 0, stored.about.size):
            # What it was made of is gone. Those after it are compared from here.
            one.run.state, one.right = one.series.begin(stored.state).state, stored
            return Checked(one.series, height, notice=f"events that it covers were erased: {erased}")
        changes = tuple(_limited(differences(replayed, stored.state)))
        since = one.right.height if one.right else None
        event = self._first(one, stored, replayed, [change.path for change in changes])
        return Checked(
            one.series, height, fault="is not the state that the events give",
            changes=changes, since=since, event=event,
        )  # fmt: skip

    def _erased(self, first: int, end: int) -> int:
        """How many events of these leaves of the trunk were erased."""
        if self._view.branch != trunk_of(self._store):
            return 0
        records = Records(self._store)
        pages = range(first, end, BATCH) if records else ()
        return sum(
            int(records.cover(self._view.log.positions(at, min(at + BATCH, end)), sealed=True).sum())
            for at in pages
        )

    def _first(self, one: _Progress, stored: Stored, replayed: bytes, paths: list[str]) -> Event | None:
        """The first event since the last right snapshot after which the replay has other values at these
        paths: by halves, each from the newest state before them."""
        right = one.right
        run = one.series.begin(right.state, right.about.size) if right else one.series.begin()
        state, bottom, top = run.dump(), run.size, stored.about.size
        before = values_at(state, paths)
        if values_at(replayed, paths) == before:
            return None
        while top - bottom > 1:
            middle = (bottom + top) // 2
            run = one.series.begin(state, bottom)
            for _ in replay(self._feed, [run], middle):
                pass
            reached = run.dump()
            if values_at(reached, paths) == before:
                bottom, state = middle, reached
            else:
                top = middle
        found = next(self._feed.stretches(bottom, top), None)
        return events_of(found.batch)[0] if found else None


def _limited(changes: Iterator[Change]) -> Iterator[Change]:
    for _, change in zip(range(PATHS), changes, strict=False):
        yield change
