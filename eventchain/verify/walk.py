"""A branch as it was walked: its blocks, what is known of each, and how to find them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from eventchain.contracts.chain_store import Branch
from eventchain.formats.header import ZERO
from eventchain.formats.log import Hashes
from eventchain.formats.manifest import Manifest, Sealed, base_origin
from eventchain.formats.policy import Policy

NEVER = 2**63
NONE = -1
"""Stands for a position or a sealed block that is not stated."""


@dataclass(slots=True)
class Block:
    """One row as checked. ``said`` is None for a broken manifest; ``seal`` is None above the sealed prefix;
    its leaves are ``first`` to ``end`` of the log. ``vague``: where its leaves begin is not known, because
    the block below is broken or missing; that one's leaves are counted to this one. ``broken``: its row is a
    finding already, so what refers to it is not held against it."""

    height: int
    said: Manifest | None
    link: bytes
    mined: bool
    seal: bytes | None = None
    first: int = 0
    end: int = 0
    vague: bool = False
    broken: bool = False


@dataclass(frozen=True, slots=True)
class Plain:
    """n blocks in which there is nothing to find and which say nothing out of the ordinary, as columns:
    (n,) int64, digests (n, 32) uint8. ``size``: of the log, which is where the block's leaves end;
    ``named``: height of the sealed block that it names."""

    height: NDArray[np.int64]
    size: NDArray[np.int64]
    position: NDArray[np.int64]
    built: NDArray[np.int64]
    named: NDArray[np.int64]
    root: Hashes
    leaves: Hashes
    link: Hashes
    seal: Hashes


_DIGESTS = ("root", "leaves", "link", "seal")
_NUMBERS = ("height", "end", "size", "position", "late", "built", "named")
_FLAGS = ("read", "mined", "sealed", "vague", "broken")


class BlockTable(Sequence[Block]):
    """The blocks of a branch by rising height, in columns, under 200 bytes each: a :class:`Block` is made
    anew whenever one is asked for. Manifests are kept only of blocks that were added one by one.

    Columns have a row for each block: ``height``, ``end`` (of its leaves), ``size`` (of the log as stated),
    ``position``, ``late``, ``built``, ``named`` (n,) int64; ``root``, ``leaves``, ``link``, ``seal`` (n, 32)
    uint8; ``read`` (whether the manifest could be), ``mined``, ``sealed``, ``vague``, ``broken`` (n,) bool.
    """

    def __init__(self, origin: str) -> None:
        self._origins = [(0, origin)]  # from which row on plain blocks say which
        self._count = 0
        self._columns: dict[str, NDArray[Any]] = {
            **{name: np.zeros(0, np.int64) for name in _NUMBERS},
            **{name: np.zeros((0, 32), np.uint8) for name in _DIGESTS},
            **{name: np.zeros(0, np.bool_) for name in _FLAGS},
        }
        self._said: dict[int, Manifest | None] = {}  # of blocks that were added one by one

    def column(self, name: str) -> NDArray[Any]:
        """A view, valid until the next block is added."""
        return self._columns[name][: self._count]

    def first(self, row: int) -> int:
        """Where a block's leaves begin."""
        return int(self._columns["end"][row - 1]) if row else 0

    # -- adding

    def append(self, block: Block) -> None:
        said = block.said
        row = self._room(1)
        self._said[row.start] = said
        for name, flag in zip(
            _FLAGS,
            (said is not None, block.mined, block.seal is not None, block.vague, block.broken),
            strict=True,
        ):
            self._columns[name][row] = flag
        numbers = {"height": block.height, "end": block.end, "position": NONE, "named": NONE}
        digests = {"link": block.link, "seal": block.seal or ZERO}
        if said is not None:
            numbers |= {"size": said.size, "late": said.late, "built": said.built}
            if said.position is not None:
                numbers["position"] = said.position
            digests |= {"root": said.root, "leaves": said.leaves}
        for name, number in numbers.items():
            self._columns[name][row] = number
        for name, digest in digests.items():
            self._columns[name][row] = np.frombuffer(digest, np.uint8)

    def extend(self, blocks: Plain, origin: str) -> None:
        """All of them say this origin."""
        rows = self._room(len(blocks.height))
        if self._origins[-1][1] != origin:
            self._origins.append((rows.start, origin))
        for name in ("height", "size", "position", "built", "named", *_DIGESTS):
            self._columns[name][rows] = getattr(blocks, name)
        self._columns["end"][rows] = blocks.size
        for name in ("read", "mined", "sealed"):
            self._columns[name][rows] = True

    def _room(self, count: int) -> slice:
        rows = slice(self._count, self._count + count)
        if rows.stop > len(self._columns["height"]):
            for name, column in self._columns.items():
                more = np.zeros((max(len(column), count, 64), *column.shape[1:]), column.dtype)
                self._columns[name] = np.concatenate([column, more])
        self._count = rows.stop
        return rows

    def cap(self, end: int) -> None:
        """No block's leaves go further."""
        np.minimum(self.column("end"), end, out=self.column("end"))

    # -- looking up

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Block: ...
    @overload
    def __getitem__(self, index: slice) -> list[Block]: ...
    def __getitem__(self, index: int | slice) -> Block | list[Block]:
        if isinstance(index, slice):
            return [self._block(row) for row in range(*index.indices(self._count))]
        row = index + self._count if index < 0 else index
        if not 0 <= row < self._count:
            raise IndexError(index)
        return self._block(row)

    def _block(self, row: int) -> Block:
        at = self._columns
        _, mined, sealed, vague, broken = (bool(at[name][row]) for name in _FLAGS)
        return Block(
            height=int(at["height"][row]),
            said=self._said[row] if row in self._said else self._plain(row),
            link=at["link"][row].tobytes(),
            mined=mined,
            seal=at["seal"][row].tobytes() if sealed else None,
            first=self.first(row),
            end=int(at["end"][row]),
            vague=vague,
            broken=broken,
        )

    def _plain(self, row: int) -> Manifest:
        at = self._columns
        named = int(at["named"][row])
        return Manifest(
            origin=self._origins[bisect_right(self._origins, row, key=lambda one: one[0]) - 1][1],
            size=int(at["size"][row]),
            root=at["root"][row].tobytes(),
            height=int(at["height"][row]),
            leaves=at["leaves"][row].tobytes(),
            built=int(at["built"][row]),
            position=int(at["position"][row]),
            sealed=Sealed(named, at["seal"][self.row_of(named)].tobytes()),  # which it was held against
        )

    def row_of(self, height: int) -> int:
        """The row of the block at a height; −1 where there is none."""
        heights = self.column("height")
        if not self._count:
            return -1
        row = height - int(heights[0])  # where none is missing
        if not (0 <= row < self._count and heights[row] == height):
            row = bisect_left(heights, height)
        return row if row < self._count and heights[row] == height else -1

    def spoken(self) -> Iterator[Block]:
        """The blocks that may say more than plain ones."""
        return map(self._block, self._said)


@dataclass
class Walk:
    """A branch as walked, through all its incarnations. ``parent`` is the branch that it forks from.
    ``headless``: its first block, which says where it forks off, is missing. ``lost``: from this height on,
    seals only follow from a finding. ``trunk``: the first branch that forks from nowhere."""

    branch: Branch
    parent: Walk | None = None
    fork: int = -1
    policy: Policy | None = None
    sealed: int = -1
    trunk: bool = False
    headless: bool = False
    lost: int = NEVER
    blocks: BlockTable = field(init=False)
    _covered: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))  # through each block

    def __post_init__(self) -> None:
        self.blocks = BlockTable(self.branch.origin)

    @property
    def origin(self) -> str:
        return self.branch.origin

    @property
    def size(self) -> int:
        return int(self.blocks.column("end")[-1]) if self.blocks else 0

    def lose(self, height: int) -> None:
        """From this height on, seals follow from a finding."""
        self.lost = min(self.lost, height)

    def own(self, height: int) -> Block | None:
        """This branch's own block at a height."""
        row = self.blocks.row_of(height)
        return self.blocks[row] if row >= 0 else None

    def at(self, height: int) -> Block | None:
        """The block at a height of this branch's own path, through its fork."""
        if self.parent is not None and height <= self.fork:
            return self.parent.at(height)
        return self.own(height)

    def seal_known(self, height: int) -> bool:
        """Whether the seal at a height of this branch's own path depends on no finding."""
        if self.parent is not None and height <= self.fork:
            return self.parent.seal_known(height)
        return height < self.lost

    def gone(self, height: int) -> bool:
        """Whether a block of this branch is missing where others follow: a finding already."""
        below = bool(self.blocks) and self.fork < height < self.blocks.column("height")[-1]
        return bool(below) and self.blocks.row_of(height) < 0

    def block_of(self, leaf: int) -> Block | None:
        """The block that added a leaf of the log."""
        at = int(np.searchsorted(self.blocks.column("end"), leaf, side="right"))
        return self.blocks[at] if at < len(self.blocks) else None

    def block_over(self, position: int) -> Block | None:
        """The block in whose range a position lies."""
        if len(self._covered) != len(self.blocks):
            self._covered = np.maximum.accumulate(self.blocks.column("position"))
        at = int(np.searchsorted(self._covered, max(position, 0)))
        return self.blocks[at] if at < len(self.blocks) else None

    def policy_at(self, height: int) -> Policy | None:
        policy = None
        for block in self.blocks.spoken():
            if block.height > height:
                break
            if block.said is not None and block.said.policy is not None:
                policy = block.said.policy
        if policy is None and self.parent is not None:
            return self.parent.policy_at(min(height, self.fork))
        return policy


def find_walk(walks: Mapping[str, Walk], origin: str) -> Walk | None:
    """The branch of this origin, in whichever incarnation it is."""
    if origin in walks:
        return walks[origin]
    wanted = base_origin(origin)
    return next((walk for known, walk in walks.items() if base_origin(known) == wanted), None)
