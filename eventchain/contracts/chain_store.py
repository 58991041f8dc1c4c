"""The contract of a chain store: branches, their incarnations, blocks, tiles, leaf pieces and the events of
child branches.

A store keeps bytes and knows nothing of what they mean. It holds nothing that could be derived from the
rest, except the tiles above level 0 (so that proofs need few reads), so there is nothing that an edit
could hide behind. What is read may have been edited by hand: readers return rows as they stand, of the
declared type, and never raise for their content.

Transactions: writes belong inside ``with store.writer():`` (one writer at a time, over all processes;
:class:`~eventchain.errors.LockedError` when another has it) and there inside ``with store.transaction():``
which commits on leaving, durable on return, or rolls back on an exception; after a write that failed nothing
else is written in it. Readers need neither, may
be called from any thread and see the last commit; the thread inside a transaction sees its own writes.
Writing without a transaction, or a transaction outside ``writer()``, is a RuntimeError: a bug of the caller.
All failures are :class:`~eventchain.errors.StoreError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

TILE = 256
"""Hashes in a full tile, leaves in a full piece (C2SP tlog-tiles)."""
UNFINISHED = bytes(32)
"""The digest of a piece in which an erasure was begun: what it destroyed may still be in files."""


class Branch(NamedTuple):
    id: int
    origin: str


class Incarnation(NamedTuple):
    """Blocks, tiles and pieces of a branch, from ``height`` on, under another origin than the branch has now:
    built to be put in their place, or once in it and archived. Their rows have ``id`` as the number of their
    branch. ``branch``: whose they are; ``unfinished``: what was deleted with it may still be in files. Of a
    branch that was closed only this is left: it has its own id in both places, and height 0."""

    id: int
    branch: int
    origin: str
    height: int
    unfinished: bool = False


@dataclass(frozen=True, slots=True)
class Blocks:
    """Consecutive rows of one branch, by height.

    heights: (n,) int64; headers: (n,) ``HEADER``; extranonces: (n,) int64 (an edited row may be negative);
    manifests: n byte strings. A header of the wrong length is given as all zeros.
    """

    heights: NDArray[np.int64]
    headers: NDArray[Any]
    extranonces: NDArray[np.int64]
    manifests: list[bytes]

    def __len__(self) -> int:
        return len(self.manifests)


class Extent(NamedTuple):
    """Which heights a branch has blocks at: ``highest - lowest + 1`` of them where none is missing."""

    branch: int
    lowest: int
    highest: int
    blocks: int


class Piece(NamedTuple):
    """What lies beside a level-0 tile. ``salts``: 16 bytes a leaf, and behind them the commitments of those
    that were erased (:mod:`eventchain.formats.salts`); ``positions``: big-endian i64 a leaf.

    ``digest`` is SHA-256 over ``salts ‖ positions``. It proves nothing; it only lets verify tell a
    replaced salt from an altered event. While an erasure in the piece is not complete it is
    :data:`UNFINISHED`.
    """

    index: int  # type: ignore[assignment]  # the tile's number; nobody searches a row with tuple.index
    salts: bytes
    positions: bytes
    digest: bytes


class Tile(NamedTuple):
    level: int
    index: int  # type: ignore[assignment]  # as above
    hashes: bytes


class ChainStore(Protocol):
    @property
    def url(self) -> str: ...

    def writer(self) -> AbstractContextManager[None]: ...

    def transaction(self) -> AbstractContextManager[None]: ...

    def snapshot(self) -> AbstractContextManager[None]:
        """Inside, all reads of this thread see one and the same commit, whoever writes meanwhile."""
        ...

    # -- branches
    def branches(self) -> list[Branch]:
        """All branches, oldest (lowest id, the trunk) first."""
        ...

    def add_branch(self, origin: str) -> Branch: ...

    # -- incarnations, whose blocks, tiles and pieces are read and written by their id
    def incarnations(self) -> list[Incarnation]:
        """All of them, by rising id."""
        ...

    def add_incarnation(self, branch: int, origin: str, height: int) -> Incarnation: ...

    def put_incarnation(self, incarnation: Incarnation) -> None:
        """Write its ``unfinished``."""
        ...

    def swap(self, incarnation: Incarnation, leaf: int) -> None:
        """Put the incarnation in the place of its branch's blocks, and of its tiles and pieces from that of
        leaf ``leaf`` on. The branch takes its origin; what was there takes the incarnation's id and
        the branch's old origin, and is stripped: of it stay blocks, leaf hashes and positions, with empty
        salts and digests. It is marked as unfinished."""
        ...

    def close_branch(self, branch: Branch) -> None:
        """Delete a branch with all of its rows, and remember it among the incarnations, as unfinished."""
        ...

    def drop(self, incarnation: Incarnation) -> None:
        """Delete its blocks, tiles and pieces, and mark it as unfinished. It stays in the list."""
        ...

    # -- blocks
    def blocks(self, branch: int, first: int, limit: int) -> Blocks:
        """Blocks of the branch from height ``first`` on, ascending, at most ``limit``."""
        ...

    def last_block(self, branch: int) -> Blocks:
        """The highest block of the branch (no row when it has none)."""
        ...

    def marked(self, branch: int, marks: Sequence[bytes], first: int, limit: int) -> Blocks:
        """As ``blocks``, only those whose manifest contains one of these byte strings; the others need not
        leave the database."""
        ...

    def extents(self) -> list[Extent]:
        """One of each branch number that any block row has, whether or not there is such a branch, but for
        those of incarnations."""
        ...

    def add_blocks(self, branch: int, blocks: Blocks) -> None: ...

    def solve_blocks(self, branch: int, blocks: Blocks) -> int:
        """Write headers and extranonces of blocks that are not mined yet (``time`` 0); a mined block is
        never changed. Returns how many were written. ``blocks.manifests`` may be empty here."""
        ...

    # -- the log
    def tiles(self, branch: int, level: int, first: int, limit: int) -> list[Tile]:
        """Tiles of one level, by index from ``first`` on. The last one may be partial."""
        ...

    def pieces(self, branch: int, first: int, limit: int) -> list[Piece]: ...

    def put_tiles(self, branch: int, tiles: list[Tile]) -> None:
        """Insert or replace (a partial tile grows); of each level, tiles that follow one another. So are
        the pieces of ``put_pieces``."""
        ...

    def put_pieces(self, branch: int, pieces: list[Piece]) -> None: ...

    # -- the events of child branches
    def events(self, branch: int, after: int | None, limit: int) -> Any:
        """A ``pyarrow.RecordBatch`` of ``EVENT_SCHEMA``, like an event store's ``read``."""
        ...

    def add_events(self, branch: int, batch: Any) -> None: ...

    # -- for erasures
    def scrub(self, *, rows: bool = False) -> None:
        """Inside ``writer()``, in no transaction: no salt that was overwritten is left in the store's files
        on return, and with ``rows`` nothing at all that was deleted. What the database keeps besides
        (backups, replicas, PostgreSQL's WAL) is its administrator's. Raises StoreError where something stands
        in the way, as a reader of an old state."""
        ...

    # -- for verify
    def strays(self) -> list[str]:
        """Rows that no reader above ever returns (of a branch that does not exist, at a negative height or
        index), one description each; of more than a thousand in a table, a thousand and their number."""
        ...

    def close(self) -> None: ...
