"""A branch as it was walked: its blocks, what is known of each, and how to find them."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from eventchain.contracts.chain_store import Branch
from eventchain.formats.manifest import Manifest
from eventchain.formats.policy import Policy

NEVER = 2**63


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


@dataclass
class Walk:
    """A branch as walked. ``parent`` is the branch that it forks from. ``headless``: its first block, which
    says where it forks off, is missing. ``lost``: from this height on, seals only follow from a finding.
    ``trunk``: the first branch that forks from nowhere."""

    branch: Branch
    parent: Walk | None = None
    fork: int = -1
    blocks: list[Block] = field(default_factory=list)
    policy: Policy | None = None
    by_height: dict[int, Block] = field(default_factory=dict)
    sealed: int = -1
    trunk: bool = False
    headless: bool = False
    lost: int = NEVER
    _covered: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))  # through each block

    @property
    def origin(self) -> str:
        return self.branch.origin

    @property
    def size(self) -> int:
        return self.blocks[-1].end if self.blocks else 0

    def lose(self, height: int) -> None:
        """From this height on, seals follow from a finding."""
        self.lost = min(self.lost, height)

    def at(self, height: int) -> Block | None:
        """The block at a height of this branch's own path, through its fork."""
        if self.parent is not None and height <= self.fork:
            return self.parent.at(height)
        return self.by_height.get(height)

    def seal_known(self, height: int) -> bool:
        """Whether the seal at a height of this branch's own path depends on no finding."""
        if self.parent is not None and height <= self.fork:
            return self.parent.seal_known(height)
        return height < self.lost

    def gone(self, height: int) -> bool:
        """Whether a block of this branch is missing where others follow: a finding already."""
        below = bool(self.blocks) and self.fork < height < self.blocks[-1].height
        return below and height not in self.by_height

    def block_of(self, leaf: int) -> Block | None:
        """The block that added a leaf of the log."""
        at = bisect_right(self.blocks, leaf, key=lambda block: block.end)
        return self.blocks[at] if at < len(self.blocks) else None

    def block_over(self, position: int) -> Block | None:
        """The block in whose range a position lies."""
        if len(self._covered) != len(self.blocks):
            stated = (block.said.position if block.said else None for block in self.blocks)
            known = [-1 if position is None else position for position in stated]
            self._covered = np.maximum.accumulate(np.array(known, np.int64))
        at = int(np.searchsorted(self._covered, max(position, 0)))
        return self.blocks[at] if at < len(self.blocks) else None

    def policy_at(self, height: int) -> Policy | None:
        policy = None
        for block in self.blocks:
            if block.height > height:
                break
            if block.said is not None and block.said.policy is not None:
                policy = block.said.policy
        if policy is None and self.parent is not None:
            return self.parent.policy_at(min(height, self.fork))
        return policy
