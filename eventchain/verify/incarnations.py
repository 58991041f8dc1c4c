"""Removals: that the log as it is now is the one it was, less exactly what the records say.

Blocks from the first removed event on are of the next incarnation of the trunk. Its first block says what it
replaces; what was replaced is archived: blocks, leaf hashes and positions. From the newest incarnation down
each archive is held against the seal that leads to it, its leaves against its own blocks, and against the
leaves of the incarnation that replaced it. Below its first block an incarnation is the one that replaced it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventchain.contracts.chain_store import TILE, Branch, ChainStore, Incarnation
from eventchain.errors import FormatError
from eventchain.formats import header as fmt
from eventchain.formats.anchor import Anchor
from eventchain.formats.erasure import Erasure
from eventchain.formats.log import TILE_LEVELS, Frontier, Hashes
from eventchain.formats.manifest import (
    Manifest,
    Replaced,
    base_origin,
    incarnation_of,
    next_incarnation,
)
from eventchain.formats.policy import Policy
from eventchain.verify.erasures import Record, Records
from eventchain.verify.findings import Report
from eventchain.verify.headers import derive
from eventchain.verify.leaves import LAST, LeafTable
from eventchain.verify.walk import Walk

PAGE = 65_536
"""Leaves compared at a time."""
ROWS = 4096
"""Blocks read at a time."""


@dataclass(frozen=True, slots=True)
class _Block:
    said: Manifest
    link: bytes
    seal: bytes | None


class _Live:
    """The trunk as it was walked."""

    def __init__(self, store: ChainStore, walk: Walk) -> None:
        self._walk, self._table = walk, LeafTable(store, walk, Report())

    @property
    def size(self) -> int:
        return self._walk.size

    def block(self, height: int) -> _Block | None:
        block = self._walk.own(height)
        return None if block is None or block.said is None else _Block(block.said, block.link, block.seal)

    def replacing(self, number: int) -> Manifest | None:
        """The first block of an incarnation."""
        return _replacing(number, (block.said for block in self._walk.blocks.spoken() if block.said))

    def policy_at(self, height: int) -> Policy | None:
        return self._walk.policy_at(height)

    def leaves(self, first: int, end: int) -> tuple[Hashes, NDArray[np.int64]]:
        """Hashes and positions of these leaves: (n, 32), (n,)."""
        return self._table.hashes(first, end), self._table.beside(first, end)[1]


class _Archived:
    """An incarnation that was replaced, as it was then. ``above``: the one that replaced it, of which are the
    blocks below ``first`` and the leaves below ``leaf``. ``fault``: what is wrong with it, in words."""

    def __init__(
        self, store: ChainStore, row: Incarnation, above: _Live | _Archived, said: Manifest, leaf: int
    ) -> None:
        self.row, self.above, self.first, self.leaf = row, above, said.height, leaf
        self.fault: str | None = None
        self._store = store
        self._said: list[Manifest] = []
        self._links: list[bytes] = []
        self._seals: list[bytes] = []
        self._table = LeafTable(store, Walk(Branch(row.id, row.origin)), Report())
        assert said.replaces is not None
        self._read(said.replaces)
        self.height = self.first + len(self._said) - 1

    def _read(self, replaced: Replaced) -> None:
        """The blocks, each linked to the one below it, up to the head with the seal that is named."""
        below = self.above.block(self.first - 1)
        if below is None or below.seal is None:
            self.fault = "the block below it is gone"
            return
        link, seal, height, origin = below.link, below.seal, self.first, below.said.origin
        while len(rows := self._store.blocks(self.row.id, height, ROWS)):
            found = derive(rows)
            for row in range(len(rows)):
                try:
                    said = Manifest.parse(rows.manifests[row])
                except FormatError as error:
                    self.fault = f"block {height}: {error.message}"
                    return
                extranonce = int(rows.extranonces[row])
                if (int(rows.heights[row]), rows.headers[row]["prev"].tobytes()) != (height, link):
                    self.fault = f"block {height} does not follow the one below it"
                elif said.height != height or not _follows(said, origin):
                    self.fault = f"in the place of block {height} is block {said.height} of {said.origin}"
                elif not (found.fits[row] and found.met[row] and rows.headers[row]["time"]):
                    self.fault = f"block {height} is not mined, or its header is not of what it says"
                if self.fault:
                    return
                link = found.links[row].tobytes()
                seal = fmt.seal_of(seal, link, rows.headers[row].tobytes(), extranonce)
                self._said.append(said)
                self._links.append(link)
                self._seals.append(seal)
                height, origin = height + 1, said.origin
        if self.row.height != self.first or len(self._store.blocks(self.row.id, 0, 1)) == 0:
            self.fault = f"its row says that it begins at block {self.row.height}"
        elif self._store.blocks(self.row.id, 0, 1).heights[0] != self.first:
            self.fault = "it has blocks below its first"
        elif (height - 1, origin, seal) != (replaced.height, replaced.origin, replaced.seal):
            self.fault = f"it ends at block {height - 1}, which is not the head that was replaced"

    @property
    def size(self) -> int:
        return self._said[-1].size if self._said else self.leaf

    def block(self, height: int) -> _Block | None:
        at = height - self.first
        if at < 0:
            return self.above.block(height)
        return _Block(self._said[at], self._links[at], self._seals[at]) if at < len(self._said) else None

    def replacing(self, number: int) -> Manifest | None:
        return _replacing(number, self._said) or self.above.replacing(number)

    def policy_at(self, height: int) -> Policy | None:
        stated = [said.policy for said in self._said if said.policy and said.height <= height]
        return stated[-1] if stated else self.above.policy_at(min(height, self.first - 1))

    def leaves(self, first: int, end: int) -> tuple[Hashes, NDArray[np.int64]]:
        if first >= self.leaf:
            return self._table.hashes(first, end), self._table.beside(first, end)[1]
        if end <= self.leaf:
            return self.above.leaves(first, end)
        parts = self.leaves(first, self.leaf), self.leaves(self.leaf, end)
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    def check_shape(self) -> None:
        """That tiles and pieces are those of its leaves, each once and no longer, and hold nothing else."""
        first, end = self.leaf // TILE, (self.size + TILE - 1) // TILE
        tiles = self._all(partial(self._store.tiles, self.row.id, 0))
        pieces = self._all(partial(self._store.pieces, self.row.id))
        if not len(tiles) == len(pieces) == end - first:
            self.fault = f"it has {len(tiles)} tiles and {len(pieces)} pieces, not {end - first}"
            return
        wanted = [(index, min(TILE, self.size - index * TILE)) for index in range(first, end)]
        if [(tile.index, len(tile.hashes) / 32) for tile in tiles] != wanted:
            self.fault = "its tiles are not those of its leaves"
        elif [(piece.index, len(piece.positions) / 8) for piece in pieces] != wanted:
            self.fault = "its pieces are not those of its leaves"
        elif any(piece.salts or piece.digest for piece in pieces):
            self.fault = "its pieces hold more than positions"
        elif any(self._store.tiles(self.row.id, level, 0, 1) for level in range(1, TILE_LEVELS)):
            self.fault = "it has tiles above its leaves"
        if self.fault is not None:
            return
        start = first * TILE
        own = self._table.hashes(start, self.leaf), self._table.beside(start, self.leaf)[1]
        below = self.above.leaves(start, self.leaf)
        if (own[0] != below[0]).any() or (own[1] != below[1]).any():
            self.fault = "its first tile or piece begins with other leaves than the log"

    @staticmethod
    def _all(read: Callable[[int, int], list[Any]]) -> list[Any]:
        every: list[Any] = []
        while (not every or every[-1].index < LAST) and (
            rows := read(every[-1].index + 1 if every else 0, ROWS)
        ):
            every += rows
        return every

    def check_leaves(self) -> None:
        """The leaves against the roots that the blocks state."""
        frontier = Frontier()
        for first, end in _pages(0, self.leaf):
            frontier.append(self.leaves(first, end)[0])
        at = 0
        while at < len(self._said):
            sizes = np.array([said.size for said in self._said[at:]], np.int64)
            if (np.diff(sizes, prepend=frontier.size) < 0).any():
                self.fault = "its log shrinks"
                return
            count = max(1, int(np.searchsorted(sizes, frontier.size + PAGE, side="right")))
            hashes, _ = self.leaves(frontier.size, int(sizes[count - 1]))
            roots = frontier.extend(hashes, sizes[:count].tolist())
            for said, root in zip(self._said[at : at + count], roots, strict=True):
                if said.root != root:
                    self.fault = f"its leaves up to {said.size} are not those of block {said.height}"
                    return
            at += count

    def check_less(self, removed: Erasure) -> None:
        """That what replaced it holds just the same leaves, less those that the record names."""
        at, taken = self.leaf, 0
        for first, end in _pages(self.leaf, self.size):
            hashes, positions = self.leaves(first, end)
            stay = ~removed.covers(positions)
            taken += int((~stay).sum())
            until = at + int(stay.sum())
            new = self.above.leaves(at, until) if until <= self.above.size else None
            if new is None or (new[0] != hashes[stay]).any() or (new[1] != positions[stay]).any():
                what = "are not the leaves that the record leaves in the log"
                self.fault = f"leaves {at} to {until - 1} of {next_incarnation(self.row.origin)} {what}"
                return
            at = until
        if taken != removed.count:
            self.fault = f"of the {removed.count} positions that the record names it has {taken}"


def _pages(first: int, end: int) -> Iterator[tuple[int, int]]:
    for start in range(first, end, PAGE):
        yield start, min(start + PAGE, end)


def _follows(said: Manifest, below: str) -> bool:
    if said.origin == below:
        return said.replaces is None
    return said.replaces is not None and said.origin == next_incarnation(said.replaces.origin)


def _replacing(number: int, every: Iterator[Manifest] | list[Manifest]) -> Manifest | None:
    return next(
        (said for said in every if said.replaces is not None and incarnation_of(said.origin) == number), None
    )


@dataclass
class Archives:
    """The incarnations of the trunk that were replaced and whose archives are sound, by origin; ``closed``:
    the record of each branch that was closed; ``records``: of removals, by the origin that was replaced."""

    every: dict[str, _Archived] = field(default_factory=dict)
    closed: dict[str, str] = field(default_factory=dict)
    records: dict[str, str] = field(default_factory=dict)

    def block(self, anchor: Anchor) -> _Block | None:
        """The anchored block, or what is in its place, of an incarnation that was replaced and whose archive
        is sound."""
        archived = self.every.get(anchor.origin)
        return archived.block(anchor.height) if archived is not None else None

    def held(self, anchor: Anchor) -> int:
        """The highest block of the trunk as it is now that an archived block still holds."""
        archived: _Live | _Archived | None = self.every.get(anchor.origin)
        height = anchor.height
        while isinstance(archived, _Archived):
            height, archived = min(height, archived.first - 1), archived.above
        return height


def read_archives(
    store: ChainStore, trunk: Walk, walks: dict[str, Walk], records: Records, report: Report
) -> Archives:
    """Check every removal of the chain and what is archived of it."""
    rows = store.incarnations()
    archives = Archives()
    for record in records.done:
        if record.erasure.removal is not None:
            name = f"{records.origin}/{record.number}"
            archives.closed |= dict.fromkeys(record.erasure.removal.closed, name)
            archives.records[record.erasure.origin] = name
    known = {
        row.id for row in rows if row.origin in archives.closed and (row.branch, row.height) == (row.id, 0)
    }
    if any(record.erasure.origin == trunk.origin for record in records.removals):  # under way
        known |= {row.id for row in rows if row.origin == next_incarnation(trunk.origin)}
    known |= _replaced(store, trunk, records, rows, archives, report)
    for row in rows:
        if row.id not in known:
            report.add("stray", f"incarnations: {row.id}: no block and no record leads to {row.origin[:80]}")
        if row.unfinished:
            message = f"what was deleted with {row.origin[:80]} may still be in the chain store's files"
            report.add("unerased", message, origin=trunk.origin)
    _check_closed(walks, records, archives, report)
    return archives


def _replaced(
    store: ChainStore,
    trunk: Walk,
    records: Records,
    rows: list[Incarnation],
    archives: Archives,
    report: Report,
) -> set[int]:
    """Follow the ``replaces`` lines down; the ids of the rows that they lead to."""
    known: set[int] = set()
    log: _Live | _Archived = _Live(store, trunk)
    done: set[int] = set()
    lost = False
    numbers = {incarnation_of(row.origin) for row in rows if row.branch == trunk.branch.id}
    numbers |= {incarnation_of(record.erasure.origin) for record in records.done}
    now = incarnation_of(trunk.origin)
    for number in sorted({now, *(one + 1 for one in numbers if one < now)} - {1}, reverse=True):
        origin = base_origin(trunk.origin) + (f"@{number - 1}" if number > 2 else "")
        row = next((row for row in rows if (row.branch, row.origin) == (trunk.branch.id, origin)), None)
        purged = row is None or not len(store.last_block(row.id))
        if row is not None and purged:
            known.add(row.id)
        said = log.replacing(number)
        if said is None or said.replaces is None:
            known |= {row.id} if row is not None else set()
            if not lost and report.clean:
                report.add("archive", f"no block replaces {origin}", origin=trunk.origin)
            continue
        tell_at = {"origin": trunk.origin, "height": said.height}
        record = _record_of(records, said.replaces)
        if record is None:
            if not records.damaged:
                report.add("archive", f"replaces {origin}, and no sealed record says why", **tell_at)
            lost = True
            continue
        done.add(record.number)
        if purged or row is None or lost:
            lost = True
            message = f"nothing is kept of {origin} from block {said.height} on, which it replaces"
            report.add("unproven", message, notice=True, **tell_at)
            continue
        known.add(row.id)
        below = log.block(said.height - 1)
        archived = _Archived(store, row, log, said, below.said.size if below else 0)
        _check(archived, record, said)
        if archived.fault is not None:
            report.add("archive", f"the archive of {origin}: {archived.fault}", **tell_at)
            lost = True
            continue
        archives.every[origin] = log = archived
    for record in records.done:
        if record.number not in done and not lost:
            report.add(
                "unerased",
                f"the record says that {record.erasure.origin} was replaced, and no block does",
                origin=records.origin,
                height=record.height,
                position=record.number,
            )
    return known


def _record_of(records: Records, replaced: Replaced) -> Record | None:
    for record in records.removals:
        removal = record.erasure.removal
        if (
            removal is not None
            and (record.erasure.origin, removal.height) == (replaced.origin, replaced.height)
            and removal.seal == replaced.seal
            and replaced.reason == f"{records.origin}/{record.number}"
        ):
            return record
    return None


def _check(archived: _Archived, record: Record, said: Manifest) -> None:
    """An archive against its own blocks, its record, and what replaced it; the first fault is kept."""
    if archived.fault is not None:
        return
    removal = record.erasure.removal
    head = archived.block(archived.height)
    if removal is None or head is None or head.link != removal.link:
        archived.fault = "its head is not the one that the record names"
        return
    before, after = archived.policy_at(archived.height), archived.above.policy_at(said.height)
    if before and after and not replace(after, late=before.late).allows_nothing_beyond(before):
        archived.fault = f"its policy {before} was tighter than {after}, which replaces it"
        return
    for check in (archived.check_shape, archived.check_leaves, partial(archived.check_less, record.erasure)):
        if archived.fault is None:
            check()


def _check_closed(walks: dict[str, Walk], records: Records, archives: Archives, report: Report) -> None:
    """Closed branches are gone, and only of such there is a next incarnation."""
    for walk in walks.values():
        if walk.parent is None or not walk.blocks:
            continue
        height = walk.blocks[0].height
        if walk.origin in archives.closed:
            message = (
                f"the branch was closed by the record {archives.closed[walk.origin]}, and is still there"
            )
            report.add("branch", message, origin=walk.origin, height=height)
        number = incarnation_of(walk.origin)
        before = base_origin(walk.origin) + (f"@{number - 1}" if number > 2 else "")
        if number > 1 and before not in archives.closed and not records.damaged:
            message = f"no record says that {before}, which it follows, was closed"
            report.add("branch", message, origin=walk.origin, height=height)
