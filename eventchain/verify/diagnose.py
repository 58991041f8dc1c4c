"""Names what happened to events that do not match their leaves.

A leaf covers the event's position, so an event that was only moved still fits its old leaf once that
leaf's position is put in the place of its own. That is tried for nearby leaves first (a row deleted and
the rest renumbered shifts everything after it by one), then for whatever is left over. What fits no leaf
was altered or inserted; a leaf that no event fits has lost its event.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from eventchain.contracts.chain_store import TILE
from eventchain.formats.log import Hashes
from eventchain.formats.salts import Salts
from eventchain.verify.findings import Report
from eventchain.verify.leaves import NOWHERE, LeafTable
from eventchain.verify.naming import ALTERED, MANY, NEVER, PUSHED, RUN, SALT, Naming
from eventchain.verify.suspects import Suspects, agree, at_positions, concat, safe_leaf_hashes, take
from eventchain.verify.walk import Block, Walk

NEAR = 64
"""How many leaves to each side are tried for the first event of a shifted run."""
TRIES = 64
"""Runs looked for in a window before the rest is called altered."""
POOL = 512
"""Events and leaves without a partner that are held against one another at the end."""
ROUNDS = 4
"""How often such a pool is worked through; an edit that fills more is no handful of moved events."""


@dataclass
class _Shift:
    """A run of events that fit the leaf ``by`` places on. ``last``: the last one's leaf by position."""

    by: int
    last: int
    first_position: int
    last_position: int
    count: int
    block: Block | None


class Diagnosis:
    """Takes the suspects of one window after another and reports what happened to them."""

    def __init__(self, walk: Walk, table: LeafTable, report: Report) -> None:
        self._walk = walk
        self._table = table
        self._report = report
        self._left = Suspects.none()
        self._shift: _Shift | None = None
        self._filled: set[int] = set()  # leaves whose event was found elsewhere
        self._altered_in_run: dict[int, int] = {}  # leaf by position -> the leaf it is moved to by its run
        self._rounds = ROUNDS
        self._naming = Naming(walk, report)
        self._tile = lru_cache(maxsize=512)(self._read_tile)
        self._sightless = lru_cache(maxsize=512)(self._lacks_pieces)

    def take(self, suspects: Suspects) -> None:
        if suspects:
            self._shifts(suspects)
        pool = Suspects(
            concat(self._left.events, suspects.events),
            np.concatenate([self._left.leaves, suspects.leaves]),
            np.concatenate([self._left.lacking, suspects.lacking]),
        )
        self._left = pool
        if len(pool.leaves) > POOL or len(pool.lacking) > POOL:
            self._settle()

    def beyond(self, events: Any) -> None:
        """The first events that follow the log: a run shifted up ends among them."""
        follow = Suspects.none()
        follow.differ(events, self._walk.size + np.arange(events.num_rows))
        if self._shift is not None or len(self._left.lacking):
            self._shifts(follow)
            self._left.differ(follow.events, follow.leaves)

    def finish(self) -> None:
        self._settle()
        self._end_shift()
        self._naming.finish()

    # -- runs shifted by a constant

    def _shifts(self, suspects: Suspects) -> None:
        for _ in range(TRIES):
            by = self._nearby(suspects)
            if by is None:
                return
            own = suspects.leaves != NOWHERE
            target = np.where(own, suspects.leaves + by, NOWHERE)
            fits = self._fit(suspects.events, target)
            first = int(np.flatnonzero(fits)[0])
            after = np.flatnonzero(~fits[first:])
            run = slice(first, first + int(after[0]) if len(after) else len(fits))
            goes_on = self._goes_on(by, int(suspects.leaves[first]))
            if run.stop - run.start < 2 and not goes_on:  # a pair that changed places is no run
                return
            if goes_on and self._shift is not None:  # what stands between was moved with it, and altered
                for leaf in range(self._shift.last + 1, int(suspects.leaves[first])):
                    self._altered_in_run[leaf] = leaf + by
                    self._filled.add(leaf + by)
            self._add_shift(by, suspects, run)
            filled = suspects.leaves[run] + by
            self._filled.update(filled[: 4 * NEAR].tolist() + filled[-4 * NEAR :].tolist())
            keep = np.ones(len(fits), np.bool_)
            keep[run] = False
            # A leaf whose event left with the run, and which nothing else fills, has lost its event.
            emptied = np.setdiff1d(suspects.leaves[run], filled)
            suspects.lack(emptied[~np.isin(emptied, list(self._filled))])
            suspects.lacking = np.unique(suspects.lacking[~np.isin(suspects.lacking, filled)])
            suspects.events, suspects.leaves = take(suspects.events, keep), suspects.leaves[keep]

    def _nearby(self, suspects: Suspects) -> int | None:
        """How far the first events that fit a leaf near their own are shifted, if there are two."""
        rows = np.flatnonzero(suspects.leaves != NOWHERE)[:8]
        for row in rows:
            own = int(suspects.leaves[row])
            around = np.arange(max(0, own - NEAR), min(self._walk.size, own + NEAR + 1))
            repeated = suspects.events.take(pa.array(np.full(len(around), row)))
            hits = np.flatnonzero(self._fit(repeated, around))
            if len(hits) and around[hits[0]] != own:
                return int(around[hits[0]]) - own
        return None

    def _fit(self, events: Any, leaves: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each event, put at its leaf's position, hashes to the leaf; false where there is none."""
        fits = np.zeros(len(leaves), np.bool_)
        real = np.flatnonzero((leaves >= 0) & (leaves < self._walk.size))
        if not len(real):
            return fits
        hashes, salts, positions = self._stored(leaves[real])
        moved = at_positions(events.take(pa.array(real)), positions)
        fits[real] = agree(safe_leaf_hashes(moved, salts), hashes)
        return fits

    def _stored(self, leaves: NDArray[np.int64]) -> tuple[Hashes, Salts, NDArray[np.int64]]:
        """Hashes, salts and positions of any leaves, (n, 32), n and (n,): read at once where they lie
        close together, tile by tile where they are scattered over the log."""
        low, high = int(leaves.min()), int(leaves.max()) + 1
        if high - low <= 4 * len(leaves) + 16 * TILE:
            salts, positions, _ = self._table.beside(low, high)
            return self._table.hashes(low, high)[leaves - low], salts[leaves - low], positions[leaves - low]
        numbers, where = np.unique(leaves // TILE, return_inverse=True)
        tiles = [self._tile(int(number)) for number in numbers]
        at = where * TILE + leaves % TILE
        return (
            np.concatenate([tile[0] for tile in tiles])[at],
            Salts.join([tile[1] for tile in tiles])[at],
            np.concatenate([tile[2] for tile in tiles])[at],
        )

    def _read_tile(self, number: int) -> tuple[Hashes, Salts, NDArray[np.int64], NDArray[np.bool_]]:
        first, end = number * TILE, (number + 1) * TILE
        return self._table.hashes(first, end), *self._table.beside(first, end)

    def _add_shift(self, by: int, suspects: Suspects, run: slice) -> None:
        first, last = int(suspects.leaves[run.start]), int(suspects.leaves[run.stop - 1])
        where = suspects.events["position"].to_numpy()[run]
        if self._shift is not None and self._goes_on(by, first):
            self._shift.last, self._shift.last_position = last, int(where[-1])
            self._shift.count += len(where)
            return
        self._end_shift()
        block = self._walk.block_of(min(first, self._walk.size - 1))
        self._shift = _Shift(by, last, int(where[0]), int(where[-1]), len(where), block)

    def _goes_on(self, by: int, first: int) -> bool:
        """Whether a run from leaf ``first`` on continues the one before it, a few altered events apart."""
        shift = self._shift
        return shift is not None and shift.by == by and 0 < first - shift.last <= RUN

    def _end_shift(self) -> None:
        shift, self._shift = self._shift, None
        if shift is None:
            return
        way = "lower" if shift.by > 0 else "higher"
        self._report.add(
            "shifted",
            f"shifted by {abs(shift.by)} from {shift.first_position} to {shift.last_position}: "
            f"they stand at {way} positions than they were sealed at",
            origin=self._walk.origin,
            height=shift.block.height if shift.block else None,
            position=shift.first_position,
            last=shift.last_position,
            count=shift.count,
        )

    # -- what is left

    def _settle(self) -> None:
        """Pair up leftover events and leaves, then name the rest."""
        pool, self._left = self._left, Suspects.none()
        pool.lacking = pool.lacking[~np.isin(pool.lacking, list(self._filled))]
        if len(pool.lacking):  # the piece that would know a leaf's position is a finding itself
            pool.lacking = pool.lacking[self._stored(pool.lacking)[2] != NOWHERE]
        targets = np.unique(np.concatenate([pool.leaves[pool.leaves != NOWHERE], pool.lacking]))
        found: dict[int, int] = {}  # event row -> the leaf it belongs to
        if len(targets) and self._rounds and max(len(pool.leaves), len(targets)) <= 2 * POOL:
            self._rounds -= 1
            for row in range(len(pool.leaves)):
                hit = self._belongs(pool.events, row, targets)
                if hit is not None:
                    found[row] = hit
        emptied = {int(leaf) for row, leaf in enumerate(pool.leaves) if row in found and leaf != NOWHERE}
        lost = (set(pool.lacking.tolist()) | emptied) - set(found.values()) - self._filled
        self._moved(pool, found)
        rest = np.array([row for row in range(len(pool.leaves)) if row not in found], np.int64)
        self._unmatched(pool.events, rest, pool.leaves)
        self._missing(np.array(sorted(lost), np.int64))

    def _belongs(self, events: Any, row: int, targets: NDArray[np.int64]) -> int | None:
        if not len(targets):
            return None
        one = events.take(pa.array(np.full(len(targets), row)))
        hits = np.flatnonzero(self._fit(one, targets))
        if not len(hits):  # or the leaf's recorded position was edited, and the event never moved
            hits = np.flatnonzero(self._fit_in_place(one, targets))
        return int(targets[hits[0]]) if len(hits) else None

    def _fit_in_place(self, events: Any, leaves: NDArray[np.int64]) -> NDArray[np.bool_]:
        hashes, salts, _ = self._stored(leaves)
        return agree(safe_leaf_hashes(events, salts), hashes)

    def _moved(self, pool: Suspects, found: dict[int, int]) -> None:
        positions = pool.events["position"].to_numpy()
        in_place = [
            row
            for row, leaf in found.items()
            if self._fit_in_place(pool.events.slice(row, 1), np.array([leaf])).all()
        ]
        told: set[int] = set()
        if len(in_place) > RUN:  # the record was edited, not the events
            told.update(in_place)
            first, last = int(positions[in_place[0]]), int(positions[in_place[-1]])
            block = self._walk.block_of(found[in_place[0]])
            self._report.add(
                "salt-replaced",
                f"the chain store records other positions for {len(in_place)} events",
                origin=self._walk.origin,
                height=block.height if block else None,
                position=first,
                last=last,
                count=len(in_place),
            )
        for row, leaf in found.items():
            if row in told:
                continue
            recorded = int(self._table.beside(leaf, leaf + 1)[1][0])
            own = int(positions[row])
            partner = next(
                (other for other, goal in found.items() if goal == pool.leaves[row] != NOWHERE), None
            )
            if row in in_place:
                self._naming.one(
                    "salt-replaced",
                    f"the chain store records position {recorded} for the event sealed at {own}",
                    leaf,
                    pool.events,
                    row,
                )
            elif partner is not None and pool.leaves[partner] == leaf and partner != row:
                told.add(partner)
                self._naming.one(
                    "reordered",
                    f"stands at {own} and changed places with the one at {recorded}",
                    leaf,
                    pool.events,
                    row,
                )
            else:
                self._naming.one(
                    "reordered", f"was sealed at {recorded} and stands at {own}", leaf, pool.events, row
                )

    def _unmatched(self, events: Any, rows: NDArray[np.int64], leaves: NDArray[np.int64]) -> None:
        """Name events that fit no leaf; neighbours with the same fate together where they are many."""
        run: list[int] = []
        fate: tuple[str, str] | None = None
        for row in rows.tolist():
            this = self._fate(events, row, int(leaves[row]))
            if run and (this != fate or row != run[-1] + 1 or leaves[row] - leaves[run[-1]] not in (0, 1)):
                self._tell_run(fate, events, run, leaves)
                run = []
            fate = this
            run.append(row)
        self._tell_run(fate, events, run, leaves)

    def _fate(self, events: Any, row: int, leaf: int) -> tuple[str, str] | None:
        """Kind and message; None for what follows from another finding."""
        if leaf == NOWHERE:
            if self._blind(events["position"][row].as_py()):
                return None  # the piece that would know this position is a finding itself
            return "inserted", NEVER
        if leaf >= self._walk.size:
            return None  # not in the chain yet
        if leaf in self._filled and leaf not in self._altered_in_run:
            return "inserted", PUSHED
        target = self._altered_in_run.get(leaf, leaf)
        hashes, _, _, replaced = self._tile(target // TILE)
        if replaced[target % TILE]:
            return "salt-replaced", SALT
        if not hashes[target % TILE].any() and self._table.is_torn(target // TILE):
            return None  # the tile that would know this leaf is a finding itself
        return "altered", ALTERED

    def _tell_run(
        self, fate: tuple[str, str] | None, events: Any, run: list[int], leaves: NDArray[np.int64]
    ) -> None:
        if fate is None or not run:
            return
        kind, message = fate
        if len(run) <= RUN:
            for row in run:
                self._naming.one(kind, message, int(leaves[row]), events, row)
            return
        first, last = (events["position"][row].as_py() for row in (run[0], run[-1]))
        self._naming.many(
            kind, MANY[message], (int(leaves[run[0]]), int(leaves[run[-1]])), (first, last), len(run)
        )

    def _missing(self, leaves: NDArray[np.int64]) -> None:
        """Leaves without an event, one finding for each run."""
        for run in np.split(leaves, np.flatnonzero(np.diff(leaves) != 1) + 1):
            if not len(run):
                continue
            first, last = int(run[0]), int(run[-1])
            _, positions, replaced = self._table.beside(first, last + 1)
            if (positions == NOWHERE).all():
                continue  # the piece that would know their positions is a finding itself
            store = "event store" if self._walk.trunk else "chain store"
            message = f"{'is' if len(run) == 1 else 'are'} not in the {store}"
            if replaced.any():
                message += " at the position recorded, and the record was edited"
            kind = "salt-replaced" if replaced.any() else "missing"
            self._naming.many(kind, message, (first, last), (int(positions[0]), int(positions[-1])), len(run))

    def _blind(self, position: int) -> bool:
        """Whether the position lies in a block whose pieces are missing."""
        block = self._walk.block_over(position)
        return block is not None and self._sightless(block.first, block.end)

    def _lacks_pieces(self, first: int, end: int) -> bool:
        return bool((self._table.beside(first, end)[1] == NOWHERE).any())
