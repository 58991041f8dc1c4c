"""Re-reads every event of a branch and holds it against its leaf."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from eventchain.ahead import ahead
from eventchain.contracts.chain_store import TILE, ChainStore
from eventchain.formats.log import Hashes, root_of
from eventchain.verify.diagnose import NEAR, Diagnosis
from eventchain.verify.erasures import ErasureCheck, Records
from eventchain.verify.findings import Report
from eventchain.verify.leaves import NOWHERE, LeafTable, RootCheck, UpperTiles, Window, windows
from eventchain.verify.suspects import Suspects, agree, safe_leaf_hashes
from eventchain.verify.walk import Block, Walk

Reader = Callable[[int | None, int], Any]
"""Gives events above a position, as an event store's ``read`` does."""
READ = 32_768
Progress = Callable[[int], None]


def batches(read: Reader, show: Callable[[Any], None] | None = None) -> Iterator[Any]:
    """All events, a batch at a time; ``show`` is shown each."""
    after: int | None = None
    while (batch := read(after, READ)).num_rows:
        if show is not None:
            show(batch)
        yield batch
        after = batch["position"][-1].as_py()


class EventCursor:
    """Goes forward through the events, by position."""

    def __init__(self, batches: Iterator[Any]) -> None:
        self._batches = batches
        self._held: Any = None

    def upto(self, position: int) -> Iterator[Any]:
        """Batches of the events not read yet whose position is at most this."""
        while True:
            batch = self._next()
            if batch is None:
                return
            cut = int(np.searchsorted(batch["position"].to_numpy(), position, side="right"))
            if cut:
                yield batch.slice(0, cut)
            if cut < batch.num_rows:
                self._held = batch.slice(cut)
                return

    def peek(self, limit: int) -> Any:
        """The next events, at most ``limit``, without passing them; None where there are none."""
        self._held = self._next()
        return None if self._held is None else self._held.slice(0, limit)

    def more(self) -> int:
        """How many events follow; reads them all."""
        count = 0
        while (batch := self._next()) is not None:
            count += batch.num_rows
        return count

    def _next(self) -> Any:
        """What was held back, else the next batch; None at the end."""
        held, self._held = self._held, None
        return held if held is not None else next(self._batches, None)


def check_store(
    store: ChainStore,
    walk: Walk,
    read: Reader,
    report: Report,
    progress: Progress,
    show: Callable[[Any], None],
    records: Records,
    keeps_rows: bool,
) -> None:
    """Check the trunk's log, leaves and events, which are read ahead, all of them, and shown to ``show``; say
    so where events follow the log. ``records``: of erasures, which leave rows where the store
    ``keeps_rows``."""
    stay = [np.empty(0, np.int64)]

    def in_log(batches: Iterator[Any]) -> Iterator[Any]:
        """Without the events that were removed from it, which are no longer held against it."""
        for batch in batches:
            positions = batch["position"].to_numpy()
            removed = records.removed(positions)
            if removed.any():
                stay.append(positions[removed])
                batch = batch.filter(pa.array(~removed))
            if batch.num_rows:
                yield batch

    with ahead(in_log(batches(read, show))) as events:
        check = _Check(store, walk, read, EventCursor(events), report, records, keeps_rows)
        _check(check, progress, backlog=True)
    if len(left := np.concatenate(stay)):
        report.add(
            "unerased",
            "removed by a record, and still in the event store",
            origin=walk.origin,
            position=int(left[0]),
            last=int(left[-1]),
            count=len(left),
        )


def check_branch(store: ChainStore, walk: Walk, report: Report, progress: Progress) -> None:
    """Check a child branch's log, leaves and events, which are in the chain store."""
    if not walk.blocks:
        return  # a finding already
    read = partial(store.events, walk.branch.id)
    check = _Check(store, walk, read, EventCursor(batches(read)), report, Records(), keeps_rows=True)
    _check(check, progress, backlog=False)


def _check(check: _Check, progress: Progress, *, backlog: bool) -> None:
    for window in windows(check.walk, check.table):
        check.window(window)
        progress(window.end - window.first)
    check.finish(backlog)


class _Check:
    def __init__(
        self,
        store: ChainStore,
        walk: Walk,
        read: Reader,
        cursor: EventCursor,
        report: Report,
        records: Records,
        keeps_rows: bool,
    ) -> None:
        self.walk = walk
        self._read = read
        self._report = report
        self.table = LeafTable(store, walk, report)
        self.table.check_shape()
        self._cursor = cursor
        self._roots = RootCheck(walk, report)
        self._upper = UpperTiles(store, walk, report)
        self._diagnosis = Diagnosis(walk, self.table, report)
        self._erasures = ErasureCheck(walk, self.table, records, keeps_rows, report)
        self._late = self._late_positions()
        self._covered = NOWHERE  # the highest position of the windows so far
        self._told: set[int] = set()  # pieces whose digest alone is wrong
        self._mended: dict[int, list[tuple[int, int]]] = {}  # tile -> leaf and height of each wrong hash

    def window(self, window: Window) -> None:
        self._check_positions(window)
        self._erasures.take(window)
        derived, suspects = self._match(window)
        self._check_digests(window, suspects)
        lost = False
        for block in self._roots.broken(window):
            rows = slice(block.first - window.first, block.end - window.first)
            lost |= not self._repair(window, block, rows, derived[rows], suspects)
        self._roots.follow(window, window.hashes, lost)
        self._upper.take(window.hashes[: max(0, self.table.held - window.first)])
        self._diagnosis.take(suspects)
        self._report.events += window.end - window.first

    def finish(self, backlog: bool) -> None:
        if (follow := self._cursor.peek(NEAR)) is not None:
            self._diagnosis.beyond(follow)
        self._diagnosis.finish()
        self._erasures.finish()
        self._tell_mended()
        self._upper.check()
        waiting = self._cursor.more()
        if waiting and not backlog and self.table.cut:
            pass  # they belong to the blocks that are gone
        elif waiting and not backlog:
            self._report.add(
                "inserted",
                f"{waiting} of the branch's events stand beyond its log and were never sealed",
                origin=self.walk.origin,
                count=waiting,
            )
        elif waiting:
            self._report.add(
                "backlog",
                "wait to be sealed" if waiting > 1 else "one event waits to be sealed",
                origin=self.walk.origin,
                count=waiting,
                notice=True,
            )

    # -- events to leaves, by position

    def _match(self, window: Window) -> tuple[Hashes, Suspects]:
        """Hash every event as the leaf at its position. Returns the leaves as the events say they are
        (stored ones where no event stands), and what does not fit."""
        derived, suspects = window.hashes.copy(), Suspects.none()
        seen = np.zeros(len(derived), np.bool_)
        erasures = self._erasures.concerns(window)

        def match(batch: Any, indices: NDArray[np.int64]) -> None:
            hashes = safe_leaf_hashes(batch, window.salts[indices])
            seen[indices] = True
            derived[indices] = hashes
            fits = agree(hashes, window.hashes[indices])
            if erasures:
                fits = self._erasures.match(window, batch, indices, fits)
            wrong = np.flatnonzero(~fits)
            if len(wrong):
                suspects.differ(batch.take(pa.array(wrong)), window.first + indices[wrong])

        main = np.flatnonzero(~window.late & (window.positions != NOWHERE))
        main = main[np.argsort(window.positions[main], kind="stable")]
        places = window.positions[main]
        for batch in self._cursor.upto(self._top(window)):
            positions = batch["position"].to_numpy()
            at = np.searchsorted(places, positions)
            known = at < len(places)
            known[known] = places[at[known]] == positions[known]
            if known.all():
                match(batch, main[at])
                continue
            match(batch.filter(pa.array(known)), main[at[known]])
            suspects.extra(batch.filter(pa.array(~known & ~np.isin(positions, self._late))))
        for index in np.flatnonzero(window.late & (window.positions != NOWHERE)):
            position = int(window.positions[index])
            batch = self._read(position - 1 if position > 0 else None, 1)
            if batch.num_rows and batch["position"][0].as_py() == position:
                match(batch, np.array([index]))
        if erasures:
            seen |= self._erasures.excused(window, seen)
        suspects.lack(window.first + np.flatnonzero(~seen))
        return derived, suspects

    def _top(self, window: Window) -> int:
        """The highest position that the window covers, as its blocks state it."""
        stated = self.walk.blocks.column("position")[window.rows]
        self._covered = max(self._covered, int(stated.max()))
        return self._covered

    def _repair(self, window: Window, block: Block, rows: slice, derived: Hashes, suspects: Suspects) -> bool:
        """A block's stored leaf hashes do not give its root. Where those of the events do, only the tile is
        wrong: put the leaves right and acquit the events. Returns whether that was so."""
        assert block.said is not None
        changed = np.flatnonzero((window.hashes[rows] != derived).any(axis=1))
        if len(changed) and root_of(derived) == block.said.leaves:
            for leaf in (block.first + changed).tolist():
                self._mended.setdefault(leaf // TILE, []).append((leaf, block.height))
            window.hashes[rows] = derived
            suspects.acquit(block.first, block.end)
            return True
        self._report.add(
            "tile",
            "its stored leaf hashes do not give its root",
            origin=self.walk.origin,
            height=block.height,
        )
        return False

    def _tell_mended(self) -> None:
        """One finding for each tile whose leaf hashes were put right, unless the tile is one already."""
        for tile, leaves in self._mended.items():
            if not self.table.is_torn(tile):
                self._report.add(
                    "tile",
                    f"tile 0/{tile}: {len(leaves)} of its leaf hashes are not the sealed ones, leaf "
                    f"{leaves[0][0]} first; the events are as they were sealed",
                    origin=self.walk.origin,
                    height=leaves[0][1],
                )

    # -- positions

    def _check_positions(self, window: Window) -> None:
        """Positions rise, late leaves stand below what was covered, and a block states its highest one."""
        if self._positions_rise(window):
            return
        covered = self._covered
        for block in self.walk.blocks[window.rows]:
            if block.said is None or block.vague:
                covered = max(covered, NOWHERE if block.said is None else block.said.position or 0)
                continue
            rows = slice(block.first - window.first, block.end - window.first)
            positions, late = window.positions[rows], window.late[rows]
            stated = NOWHERE if block.said.position is None else block.said.position
            # A piece that is missing or was edited is a finding of its own.
            if len(positions) and not window.replaced[rows].any() and (positions != NOWHERE).all():
                early, main = positions[late], positions[~late]
                if (
                    (np.diff(early) <= 0).any()
                    or (np.diff(main) <= 0).any()
                    or (len(early) and int(early[-1]) >= covered)
                    or (len(main) and int(main[0]) <= covered)
                    or (len(self._late) and np.isin(main, self._late).any())
                    or max([covered, *main[-1:].tolist()]) != stated
                ):
                    pieces = set(range(block.first // TILE, (block.end + TILE - 1) // TILE))
                    if not pieces <= self.table.doubted:  # else a finding already, of a block below
                        self._report.add(
                            "piece",
                            "the positions of its leaves do not rise to the one that it states",
                            origin=self.walk.origin,
                            height=block.height,
                        )
                    self.table.doubted |= pieces
            covered = max(covered, stated)

    def _positions_rise(self, window: Window) -> bool:
        """Whether all is well with the positions of a window without late leaves, at one look."""
        blocks, rows, positions = self.walk.blocks, window.rows, window.positions
        known = blocks.column("read")[rows] & ~blocks.column("vague")[rows]
        if not known.all() or window.late.any() or window.replaced.any() or len(self._late):
            return False
        steps = np.concatenate([[self._covered], positions])
        stated = blocks.column("position")[rows]
        highest = steps[blocks.column("end")[rows] - window.first]  # through each block's last leaf
        return bool((np.diff(steps) > 0).all() and (stated == highest).all())

    def _check_digests(self, window: Window, suspects: Suspects) -> None:
        """A piece whose digest is wrong, though every event fits the salts and positions in it."""
        for tile in np.unique((window.first + np.flatnonzero(window.replaced)) // TILE).tolist():
            if tile in self.table.doubted or tile in self._told:
                continue  # a finding already
            if not suspects.touch(tile * TILE, (tile + 1) * TILE):
                self._told.add(tile)
                block = self.walk.block_of(max(window.first, tile * TILE))
                self._report.add(
                    "piece",
                    f"the digest of piece {tile} is not of its salts and positions, which are right",
                    origin=self.walk.origin,
                    height=block.height if block else None,
                )

    def _late_positions(self) -> NDArray[np.int64]:
        blocks = self.walk.blocks
        parts = []
        for row in np.flatnonzero(blocks.column("late")).tolist():
            block = blocks[row]
            assert block.said is not None
            end = block.first + min(block.said.late, block.end - block.first)
            parts.append(self.table.beside(block.first, end)[1])
        late = np.concatenate(parts) if parts else np.empty(0, np.int64)
        known, times = np.unique(late[late != NOWHERE], return_counts=True)
        if (times > 1).any():
            twice = int(known[times > 1][0])
            self._report.add(
                "piece", f"position {twice} is sealed twice", origin=self.walk.origin, position=twice
            )
        return known
