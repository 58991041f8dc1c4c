"""A branch's Merkle log in a chain store: appending to it, and reading its nodes and leaves back."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from eventchain.contracts.chain_store import TILE, UNFINISHED, ChainStore, Piece, Tile
from eventchain.errors import StoreError
from eventchain.formats.leaf import SALT
from eventchain.formats.log import TILE_LEVELS, Frontier, Hashes, pair_up, roots_of
from eventchain.formats.salts import Salts


class LogWriter:
    """Appends leaves to one branch's log: keeps its frontier and the partial tile of each level."""

    def __init__(self, store: ChainStore, branch: int, size: int) -> None:
        self._store = store
        self._branch = branch
        self.frontier = Frontier.read(size, LogReader(store, branch).node)
        counts = [size >> TILE_LEVELS * level for level in range(TILE_LEVELS)]
        self._partial = [_partial_tile(store, branch, level, count) for level, count in enumerate(counts)]
        self._salts, self._positions, self._unfinished = _partial_piece(store, branch, size)

    @property
    def size(self) -> int:
        return self.frontier.size

    def go_on_in(self, branch: int) -> None:
        """Append to the rows of another branch or incarnation, which begin with a copy of what is partial."""
        self._branch = branch
        for level, row in enumerate(self._partial):
            if len(row):
                tile = Tile(level, (self.size >> TILE_LEVELS * level) // TILE, row.tobytes())
                self._store.put_tiles(branch, [tile])
        self._put_pieces(self.size, Salts.read(b"", 0), np.empty(0, np.int64))

    def append(
        self, leaves: Hashes, salts: Salts, positions: NDArray[np.int64], counts: Sequence[int]
    ) -> tuple[list[bytes], list[bytes]]:
        """Append blocks of leaves that lie end to end, ``counts`` long, and put their tiles and pieces. Gives
        the root over each block's own leaves, and the log's root after each block.

        leaves: (n, 32), salts: n, positions: (n,)
        """
        first = self.size
        log_roots = self.frontier.extend(leaves, list(accumulate(counts, initial=first))[1:])
        if len(leaves):
            self._put_tiles(first)
            self._put_pieces(first, salts, positions)
        return self._own_roots(first, leaves, counts), log_roots

    def _own_roots(self, first: int, leaves: Hashes, counts: Sequence[int]) -> list[bytes]:
        count = max(counts, default=0)
        if count and not count & (count - 1) and not first % count and min(counts) == count:
            # Blocks of 2^k leaves, at a multiple of it: their roots are nodes of the log.
            return [node.tobytes() for node in self.frontier.added[count.bit_length() - 1]]
        return roots_of(leaves, counts)

    def _put_tiles(self, first: int) -> None:
        """Put the nodes that the log has got since its size was ``first``."""
        tiles: list[Tile] = []
        for level, row in enumerate(self.frontier.added[::TILE_LEVELS]):
            if not len(row):
                break
            start = (first >> TILE_LEVELS * level) // TILE
            row = np.concatenate([self._partial[level], row]) if len(self._partial[level]) else row
            raw = row.tobytes()
            tiles += [
                Tile(level, start + index, raw[32 * TILE * index : 32 * TILE * (index + 1)])
                for index in range(-(-len(row) // TILE))
            ]
            self._partial[level] = row[len(row) // TILE * TILE :].copy()
        self._store.put_tiles(self._branch, tiles)

    def _put_pieces(self, first: int, salts: Salts, positions: NDArray[np.int64]) -> None:
        all_salts = Salts.join([self._salts, salts])
        all_positions = self._positions + positions.astype(">i8").tobytes()
        count = len(all_positions) // 8
        pieces = []
        for start in range(0, count, TILE):
            piece_salts = bytes(all_salts[start : start + TILE])
            piece_positions = all_positions[8 * start : 8 * (start + TILE)]
            digest = UNFINISHED if self._unfinished else piece_digest(piece_salts, piece_positions)
            self._unfinished &= start + TILE > count  # of the piece that was there, while it grows
            pieces.append(Piece((first + start) // TILE, piece_salts, piece_positions, digest))
        keep = count - count % TILE
        self._salts, self._positions = all_salts[keep:], all_positions[8 * keep :]
        self._store.put_pieces(self._branch, pieces)


def piece_digest(salts: bytes, positions: bytes) -> bytes:
    """``H(salts ‖ positions)``: tells a replaced salt from an altered event, and proves nothing."""
    return hashlib.sha256(salts + positions).digest()


def _partial_tile(store: ChainStore, branch: int, level: int, count: int) -> Hashes:
    if count % TILE == 0:
        return np.empty((0, 32), np.uint8)
    found = store.tiles(branch, level, count // TILE, 1)
    if not found or found[0].index != count // TILE or len(found[0].hashes) < count % TILE * 32:
        raise damaged(f"tile {level}/{count // TILE} is missing or cut short")
    raw = found[0].hashes[: count % TILE * 32]
    return np.frombuffer(raw, np.uint8).reshape(-1, 32)


def _partial_piece(store: ChainStore, branch: int, size: int) -> tuple[Salts, bytes, bool]:
    """Salts and positions of the log's last piece, where it is not full, and whether it is UNFINISHED."""
    index, keep = divmod(size, TILE)
    if not keep:
        return Salts.read(b"", 0), b"", False
    found = store.pieces(branch, index, 1)
    if not found or found[0].index != index or not has_leaves(found[0], keep):
        raise damaged(f"piece {index} is missing or cut short")
    salts = Salts.read(found[0].salts, len(found[0].positions) // 8)[:keep]
    return salts, found[0].positions[: 8 * keep], found[0].digest == UNFINISHED


def has_leaves(piece: Piece, leaves: int) -> bool:
    """Whether the piece reaches that far."""
    return len(piece.salts) >= SALT * leaves and len(piece.positions) >= 8 * leaves


def damaged(what: str) -> StoreError:
    return StoreError(
        f"the chain store is damaged: {what}", hint="`eventchain verify` names everything that is wrong"
    )


class LogReader:
    """Reads one branch's log from its tiles. Raises StoreError where a tile is missing or cut short."""

    def __init__(self, store: ChainStore, branch: int) -> None:
        self._store = store
        self._branch = branch
        self._tile = lru_cache(maxsize=64)(self._read_tile)

    def node(self, level: int, index: int) -> bytes:
        """The hash of the complete node at (level, index)."""
        tile_level, height = divmod(level, TILE_LEVELS)
        first = index << height
        raw = self._tile(tile_level, first // TILE)
        hashes = raw[32 * (first % TILE) :][: 32 << height]
        if len(hashes) < 32 << height:
            raise damaged(f"tile {tile_level}/{first // TILE} is cut short")
        row = np.frombuffer(hashes, np.uint8).reshape(-1, 32)
        for _ in range(height):
            row = pair_up(row)
        return bytes(row[0])

    def leaf(self, index: int) -> bytes:
        return self.node(0, index)

    def position(self, index: int) -> int:
        """The position of one leaf."""
        return int(self.positions(index, index + 1)[0])

    def positions(self, first: int, end: int) -> NDArray[np.int64]:
        """Positions of leaves ``first`` to ``end``: (n,) int64."""
        return _positions(self._pieces(first, end), first, end)

    def leaves(self, first: int, end: int) -> Hashes:
        """Hashes of leaves ``first`` to ``end``: (n, 32) uint8."""
        wanted = range(first // TILE, (end + TILE - 1) // TILE)
        tiles = self._store.tiles(self._branch, 0, wanted.start, len(wanted))
        if [tile.index for tile in tiles] != list(wanted):
            raise damaged(f"of the tiles 0/{wanted.start} to 0/{wanted.stop - 1} some are missing")
        for tile in tiles:
            if len(tile.hashes) < 32 * min(TILE, end - tile.index * TILE):
                raise damaged(f"tile 0/{tile.index} is cut short")
        raw = b"".join(tile.hashes[: 32 * TILE] for tile in tiles)
        return np.frombuffer(raw, np.uint8).reshape(-1, 32)[first - wanted.start * TILE :][: end - first]

    def salts(self, first: int, end: int) -> Salts:
        """Salts of leaves ``first`` to ``end``, and commitments in the place of those that were erased."""
        return _salts(self._pieces(first, end), first, end)

    def positions_and_salts(self, first: int, end: int) -> tuple[NDArray[np.int64], Salts]:
        """Both, in one read."""
        pieces = self._pieces(first, end)
        return _positions(pieces, first, end), _salts(pieces, first, end)

    def _pieces(self, first: int, end: int) -> list[Piece]:
        """The pieces with leaves ``first`` to ``end``, in one read."""
        wanted = range(first // TILE, (end + TILE - 1) // TILE)
        pieces = self._store.pieces(self._branch, wanted.start, len(wanted))
        if [piece.index for piece in pieces] != list(wanted):
            raise damaged(f"of the pieces {wanted.start} to {wanted.stop - 1} some are missing")
        for piece in pieces:
            if not has_leaves(piece, min(TILE, end - piece.index * TILE)):
                raise damaged(f"piece {piece.index} is cut short")
        return pieces

    def find(self, position: int, size: int) -> int | None:
        """The index of the leaf with this position in a log of ``size`` leaves, or None."""
        low, high = 0, size
        while low < high:  # positions rise, but for late leaves
            middle = (low + high) // 2
            if self.position(middle) < position:
                low = middle + 1
            else:
                high = middle
        if low < size and self.position(low) == position:
            return low
        for first in range(0, size, 256 * TILE):  # a late leaf: look everywhere
            end = min(first + 256 * TILE, size)
            hits = np.flatnonzero(self.positions(first, end) == position)
            if len(hits):
                return first + int(hits[0])
        return None

    def _read_tile(self, level: int, index: int) -> bytes:
        found = self._store.tiles(self._branch, level, index, 1)
        if not found or found[0].index != index:
            raise damaged(f"tile {level}/{index} is missing")
        return found[0].hashes


def _positions(pieces: Sequence[Piece], first: int, end: int) -> NDArray[np.int64]:
    start = first // TILE * TILE
    raw = b"".join(piece.positions[: 8 * TILE] for piece in pieces)
    return np.frombuffer(raw[8 * (first - start) : 8 * (end - start)], ">i8").astype(np.int64)


def _salts(pieces: Sequence[Piece], first: int, end: int) -> Salts:
    parts = [Salts.read(one.salts, len(one.positions) // 8) for one in pieces]
    return Salts.join(parts)[first % TILE :][: end - first]
