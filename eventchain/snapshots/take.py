"""Taking snapshots: which are due, and making them in one pass over the events for all of them.

When a snapshot is due depends on nothing but the chain and the configuration: whoever takes them, and however
often it is interrupted, makes the same ones of the same blocks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from eventchain.chain.build import Snapshot
from eventchain.chain.feed import Feed
from eventchain.chain.view import ChainView
from eventchain.contracts.chain_store import Branch, ChainStore
from eventchain.contracts.event_store import EventStore
from eventchain.errors import ProjectionError
from eventchain.formats.manifest import base_origin
from eventchain.projections.fold import Run
from eventchain.snapshots.branch import SnapshotBranch
from eventchain.snapshots.replay import replay
from eventchain.snapshots.restore import begun
from eventchain.snapshots.series import Series, branch_of


class Point(NamedTuple):
    """A sealed block that a snapshot is of, and the size of the log there."""

    size: int
    height: int


class Last(NamedTuple):
    """A series' newest snapshot. fits: whether the projection is still the one that it is of, for which the
    snapshot is read."""

    point: Point
    fits: Callable[[], bool]


Due = Callable[[Series, ChainView, Last | None], Iterable[Point]]
"""The points at which snapshots of a series are due after its last one."""


def by_policy(series: Series, view: ChainView, last: Last | None) -> Iterator[Point]:
    """As the configuration's ``every`` says: the first block with so many events more than the last snapshot
    covers, or the first with any more that was built so much later than the last one's block."""
    every, sealed = series.spec.every, view.size(view.sealed_height)
    if every is None:
        return
    size, height = last.point if last else (0, view.first)
    while size < sealed:
        if every.events is not None:
            leaf = size + every.events - 1
            if leaf >= sealed:
                return
            height = view.block_of(leaf)
        else:
            later = view.said(height).built + (every.seconds or 0)
            height = max(view.built_by(later - 1) + 1, view.block_of(size))
            if height > view.sealed_height:
                return
        size = view.size(height)
        yield Point(size, height)


def at_the_head(series: Series, view: ChainView, last: Last | None) -> Iterator[Point]:
    """The newest sealed block, where it has more events than the last snapshot covers or that one is of no
    use any more."""
    head = Point(view.size(view.sealed_height), view.sealed_height)
    if last is None:
        news = head.size > 0
    else:
        news = head.size > last.point.size or (head.height > last.point.height and not last.fits())
    if news:
        yield head


class Taker:
    """Makes the snapshots of these series that are due. It keeps the projections' states between two looks,
    so that every event is applied once.

    dropped: is told of a series that cannot go on; the others do. notice: is told what a user should know.
    """

    def __init__(
        self,
        store: ChainStore,
        events: EventStore,
        series: Iterable[Series],
        due: Due = by_policy,
        *,
        dropped: Callable[[Series, ProjectionError], None],
        notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._store, self._events, self._due = store, events, due
        self._dropped, self._notice = dropped, notice
        self._runs: dict[str, Run] = {}
        self._last: dict[str, Last | None] = {}
        self._groups: dict[str, list[Series]] = defaultdict(list)
        for one in series:
            try:
                one.check()  # now, and not when the first snapshot is due
            except ProjectionError as error:
                dropped(one, error)
            else:
                self._groups[one.parent].append(one)

    def look(self, progress: Callable[[int], None] = lambda events: None) -> Iterator[Snapshot]:
        """What is due by now, by rising height for each parent. ``progress`` is told of events as they are
        done. Raises StoreError at an event that is missing or was altered; the next look begins there."""
        try:
            for parent, group in self._groups.items():
                branch = branch_of(self._store, parent)
                if branch is not None:
                    yield from self._take(branch, group, progress)
        except BaseException:
            self._runs.clear()  # they stand somewhere in the middle
            raise

    def _take(
        self, parent: Branch, group: list[Series], progress: Callable[[int], None]
    ) -> Iterator[Snapshot]:
        view = ChainView(self._store, parent)
        points: dict[Point, list[Series]] = defaultdict(list)
        for series in list(group):
            try:
                for point in self._due(series, view, self._last_one(series, view)):
                    points[point].append(series)
            except ProjectionError as error:
                self._drop(group, series, error)
        if not points:
            return
        wanted = {series.origin: series for due_here in points.values() for series in due_here}
        for series in wanted.values():
            try:
                self._begin(series)
            except ProjectionError as error:
                self._drop(group, series, error)
        due = sorted(points)
        feed = Feed(self._store, self._events, parent)
        # Those that are not due and have begun come along, since the events are read anyway.
        runs = [self._runs[series.origin] for series in group if series.origin in self._runs]
        for size in replay(feed, runs, due[-1].size, [point.size for point in due], progress):
            while due and due[0].size <= size:
                for series in points[due[0]]:
                    if series in group and (made := self._made(group, series, parent, due[0])) is not None:
                        yield made
                due.pop(0)
        for series in list(group):
            run = self._runs.get(series.origin)
            if run is not None and run.error is not None:
                self._drop(group, series, run.error)

    def _made(self, group: list[Series], series: Series, parent: Branch, point: Point) -> Snapshot | None:
        try:
            state = self._runs[series.origin].dump()
        except ProjectionError as error:
            self._drop(group, series, error)
            return None
        self._last[series.origin] = Last(point, lambda: True)
        return Snapshot(series.origin, parent.origin, point.height, state, series.about(point.size))

    def _last_one(self, series: Series, view: ChainView) -> Last | None:
        """The newest snapshot, whether it is sealed or not."""
        if series.origin not in self._last:
            self._last[series.origin] = self._read_last(series, view)
        return self._last[series.origin]

    def _read_last(self, series: Series, view: ChainView) -> Last | None:
        branch = branch_of(self._store, series.origin)
        if branch is None:
            return None
        taken = SnapshotBranch(self._store, self._events, branch)
        fork = taken.view.said(taken.view.first).fork
        if fork is None or base_origin(fork.origin) != series.parent:
            raise ProjectionError(
                f"projection {series.name}: the branch {branch.origin} holds what is of "
                f"{fork.origin if fork else 'nothing'}, not of {series.parent}",
                hint="give the projection another name",
            )
        if not taken.view.log_size:
            return None
        height = taken.pinned(taken.view.log_size - 1).height

        def fits() -> bool:
            newest = taken.newest()
            return newest is None or not series.misfit(taken.read(newest).about)

        return Last(Point(view.size(height), height), fits)

    def _begin(self, series: Series) -> None:
        if series.origin not in self._runs:
            run, _, notice = begun(self._store, self._events, series)
            if notice:
                self._notice(f"projection {series.name}: {notice}")
            self._runs[series.origin] = run

    def _drop(self, group: list[Series], series: Series, error: ProjectionError) -> None:
        if series in group:
            group.remove(series)
            self._dropped(series, error)
