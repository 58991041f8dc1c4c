"""One branch's leaf table: stored hashes, salts and positions, window by window, held against the blocks.

A window is a run of whole blocks. What an edit left unreadable is marked, never guessed: a hash that is
gone is zero, a position that is gone is −1, and a salt that is gone is zero.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eventchain.contracts.chain_store import TILE, UNFINISHED, ChainStore
from eventchain.formats.hashing import equal_rows
from eventchain.formats.log import TILE_LEVELS, Frontier, Hashes, roots_of, tile_roots
from eventchain.formats.salts import Salts, is_whole
from eventchain.verify.findings import Report
from eventchain.verify.walk import Block, Walk

WINDOW = 65_536
"""Leaves read at a time, at least; a window ends with a block."""
NOWHERE = -1
PAGE = 1024
"""Tiles or pieces read at a time to see which there are."""
LAST = 2**63 - 1
"""The highest number of a row, which only an edit can give it."""
SLACK = 2**20
"""Leaves that are looked for beyond the last stored one, where a manifest claims more."""


@dataclass
class Window:
    """Leaves ``first`` to ``end`` of a log, n of them, and the rows of the blocks that added them.

    hashes: (n, 32) uint8; salts: n; positions: (n,) int64; replaced: (n,) bool, the leaf's
    piece no longer has the digest it was written with; late: (n,) bool.
    """

    first: int
    end: int
    hashes: Hashes
    salts: Salts
    positions: NDArray[np.int64]
    replaced: NDArray[np.bool_]
    late: NDArray[np.bool_]
    rows: slice


def windows(walk: Walk, leaves: LeafTable) -> Iterator[Window]:
    ends = walk.blocks.column("end")
    first = row = 0
    while row < len(ends):
        stop = min(int(np.searchsorted(ends, first + WINDOW, side="left")) + 1, len(ends))
        yield leaves.window(slice(row, stop))
        first, row = int(ends[stop - 1]), stop


class LeafTable:
    """Reads the leaf table of one branch, reporting what is missing or malformed once."""

    def __init__(self, store: ChainStore, walk: Walk, report: Report) -> None:
        self._store = store
        self._walk = walk
        self._report = report
        self.torn: list[range] = []  # level-0 tiles that are a finding: missing or short; rising
        self.doubted: set[int] = set()  # pieces of the wrong shape or place: their salts prove nothing
        self.unfinished: set[int] = set()  # pieces that say that an erasure in them is not complete
        self.cut = False  # blocks at the end are gone or unreadable, a finding
        self.held = 0  # leaves up to the last one that is stored

    def window(self, rows: slice) -> Window:
        blocks = self._walk.blocks
        first, end = blocks.first(rows.start), int(blocks.column("end")[rows.stop - 1])
        salts, positions, replaced = self.beside(first, end)
        late = np.zeros(end - first, np.bool_)
        for row in (rows.start + np.flatnonzero(blocks.column("late")[rows])).tolist():
            begin, count = blocks.first(row) - first, int(blocks.column("late")[row])
            late[begin : begin + count] = True
        return Window(first, end, self.hashes(first, end), salts, positions, replaced, late, rows)

    def hashes(self, first: int, end: int) -> Hashes:
        """Stored leaf hashes, zero where a tile is missing or cut short: (n, 32) uint8."""
        start = first // TILE
        count = (end + TILE - 1) // TILE - start
        table = np.zeros((count * TILE, 32), np.uint8)
        for tile in self._store.tiles(self._walk.branch.id, 0, start, count) if count else ():
            if start <= tile.index < start + count:
                row = np.frombuffer(tile.hashes[: TILE * 32], np.uint8)
                row = row[: len(row) // 32 * 32].reshape(-1, 32)
                table[(tile.index - start) * TILE :][: len(row)] = row
        return table[first - start * TILE : end - start * TILE]

    def beside(self, first: int, end: int) -> tuple[Salts, NDArray[np.int64], NDArray[np.bool_]]:
        """Salts (n), positions (n,), and whether the piece's digest is wrong (n,)."""
        start = first // TILE
        count = (end + TILE - 1) // TILE - start
        salts = Salts.read(b"", count * TILE)
        positions = np.full(count * TILE, NOWHERE, np.int64)
        replaced = np.zeros(count * TILE, np.bool_)
        for piece in self._store.pieces(self._walk.branch.id, start, count) if count else ():
            if not start <= piece.index < start + count:
                continue
            at = (piece.index - start) * TILE
            where = np.frombuffer(piece.positions[: len(piece.positions) // 8 * 8], ">i8")[:TILE]
            salts = salts.put(at, Salts.read(piece.salts, len(where)))
            positions[at : at + len(where)] = where
            known = piece.index not in self.doubted
            if known and piece.digest == UNFINISHED:
                self.unfinished.add(piece.index)
            elif not known or hashlib.sha256(piece.salts + piece.positions).digest() != piece.digest:
                replaced[at : at + TILE] = True
        cut = slice(first - start * TILE, end - start * TILE)
        return salts[cut], positions[cut], replaced[cut]

    def is_torn(self, tile: int) -> bool:
        """Whether the level-0 tile is a finding already."""
        at = bisect_right(self.torn, tile, key=lambda torn: torn.start)
        return at > 0 and tile in self.torn[at - 1]

    # -- shape: rows that should not be there, or are not whole

    def check_shape(self) -> None:
        """Missing, extra, short and long rows of pieces and level-0 tiles. Blocks that claim leaves far
        beyond them are cut: a forged size must not cost memory."""
        size = self._walk.size
        unsure = bool(self._walk.blocks) and self._walk.blocks[-1].said is None  # where the log ends
        self.cut = unsure
        beyond: dict[str, list[str]] = {"tile": [], "piece": []}
        last = size  # leaves that tiles and pieces hold
        for kind, rows in (("tile", self._tile_shapes()), ("piece", self._piece_shapes())):
            expected = 0
            for index, leaves, whole in rows:
                if index > expected:
                    self._gone(kind, expected, min(index, (size + TILE - 1) // TILE))
                expected = index + 1
                self.held = max(self.held, min(size, index * TILE + min(leaves, TILE)))
                if unsure and index >= size // TILE:
                    continue
                wanted = min(TILE, size - index * TILE)
                name = f"{kind} {index}" if kind == "piece" else f"tile 0/{index}"
                if wanted <= 0 or (leaves > wanted and whole):
                    beyond[kind].append(f"{name} holds leaves beyond the log of {size}")
                    last = max(last, index * TILE + leaves)
                    self.doubted |= {index} if kind == "piece" else set()
                elif leaves != wanted or not whole:
                    self.torn += [range(index, index + 1)] if kind == "tile" else []
                    self.doubted |= {index} if kind == "piece" else set()
                    self._tell(kind, f"{name} does not hold the {wanted} leaves that it should", index)
            self._gone(kind, expected, (size + TILE - 1) // TILE)
        if beyond["tile"] and beyond["piece"]:
            self.cut = True
            what = f"tiles and pieces hold leaves {size} to {last - 1}"
            self._tell("block", f"the newest blocks are gone: {what}")
        else:
            for kind, messages in beyond.items():
                for message in messages:
                    self._tell(kind, message)
        self._walk.blocks.cap(self.held + SLACK)

    def _gone(self, kind: str, start: int, end: int) -> None:
        if start < end:
            self.torn += [range(start, end)] if kind == "tile" else []
            which = str(start) if end == start + 1 else f"{start} to {end - 1}"
            self._tell(kind, f"{kind} {which} is missing (leaves {start * TILE} to {end * TILE - 1})", start)

    def _tell(self, kind: str, message: str, index: int | None = None) -> None:
        height = None
        if index is not None:
            block = self._walk.block_of(index * TILE)
            height = block.height if block else None
        self._report.add(kind, message, origin=self._walk.origin, height=height)

    def _tile_shapes(self) -> Iterator[tuple[int, int, bool]]:
        first = 0
        while rows := self._store.tiles(self._walk.branch.id, 0, first, PAGE):
            for tile in rows:
                yield tile.index, len(tile.hashes) // 32, len(tile.hashes) % 32 == 0
            first = rows[-1].index + 1
            if len(rows) < PAGE or first > LAST:
                return

    def _piece_shapes(self) -> Iterator[tuple[int, int, bool]]:
        first = 0
        while rows := self._store.pieces(self._walk.branch.id, first, PAGE):
            for piece in rows:
                leaves = len(piece.positions) // 8
                whole = len(piece.positions) % 8 == 0 and is_whole(piece.salts, leaves)
                whole &= max(piece.positions[::8], default=0) < 0x80  # none of them is negative
                yield piece.index, leaves, whole and len(piece.digest) == 32
            first = rows[-1].index + 1
            if len(rows) < PAGE or first > LAST:
                return


class RootCheck:
    """Holds each block's leaves against the two roots that its manifest states, in order.

    ``broken`` lists the blocks whose own leaf hashes do not give the stated ``leaves`` root. Log roots are
    checked until the first break; from there on they only follow from it.
    """

    def __init__(self, walk: Walk, report: Report) -> None:
        self._walk = walk
        self._report = report
        self._frontier: Frontier | None = Frontier()

    def broken(self, window: Window) -> list[Block]:
        blocks, rows = self._walk.blocks, window.rows
        counts = np.diff(blocks.column("end")[rows], prepend=window.first)
        roots = _rows(roots_of(window.hashes, counts.tolist()))
        known = blocks.column("read")[rows] & ~blocks.column("vague")[rows]
        wrong = known & ~equal_rows(roots, blocks.column("leaves")[rows])
        return [blocks[rows.start + row] for row in np.flatnonzero(wrong).tolist()]

    def follow(self, window: Window, hashes: Hashes, broken: bool) -> None:
        """Go on with the window's leaves as they should be; ``broken``: some are not known."""
        if broken:
            self._frontier = None
        if self._frontier is None:
            return
        blocks, rows = self._walk.blocks, window.rows
        ends = blocks.column("end")[rows]
        roots = _rows(self._frontier.extend(hashes, ends.tolist()))
        known = blocks.column("read")[rows] & (blocks.column("size")[rows] == ends)
        wrong = known & ~equal_rows(roots, blocks.column("root")[rows])
        ended = blocks.column("broken")[rows]  # whose log the blocks from here on continue is not known
        for row in np.flatnonzero(wrong | ended)[:1].tolist():
            self._frontier = None
            if not ended[row]:
                height = int(blocks.column("height")[rows][row])
                self._report.add(
                    "manifest", "its root is not of its log", origin=self._walk.origin, height=height
                )


def _rows(digests: Sequence[bytes]) -> Hashes:
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)


class UpperTiles:
    """Holds the tiles above level 0 against the leaf hashes that lie below them."""

    def __init__(self, store: ChainStore, walk: Walk, report: Report) -> None:
        self._store = store
        self._walk = walk
        self._report = report
        self._rest = np.empty((0, 32), np.uint8)
        self._roots: list[Hashes] = []

    def take(self, hashes: Hashes) -> None:
        row = np.concatenate([self._rest, hashes]) if len(self._rest) else hashes
        full = len(row) // TILE * TILE
        if full:
            self._roots.append(tile_roots(row[:full]))
        self._rest = row[full:].copy()

    def check(self) -> None:
        row = np.concatenate(self._roots) if self._roots else np.empty((0, 32), np.uint8)
        for level in range(1, TILE_LEVELS):
            raw = row.tobytes()
            wanted = {index: raw[index * TILE * 32 :][: TILE * 32] for index in range(-(-len(row) // TILE))}
            first = 0
            while tiles := self._store.tiles(self._walk.branch.id, level, first, PAGE):
                for tile in tiles:
                    if wanted.pop(tile.index, None) != tile.hashes:
                        self._tell(f"tile {level}/{tile.index} is not of the tiles below it")
                first = tiles[-1].index + 1
                if len(tiles) < PAGE or first > LAST:
                    break
            for index in wanted:
                self._tell(f"tile {level}/{index} is missing")
            full = len(row) // TILE * TILE
            row = tile_roots(row[:full]) if full else row[:0]

    def _tell(self, message: str) -> None:
        self._report.add("tile", message, origin=self._walk.origin)
