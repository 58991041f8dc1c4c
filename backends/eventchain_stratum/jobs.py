"""Blocks to be solved, which connection works on which, and whether a share is right. No I/O, no clock."""

from __future__ import annotations

import math
import struct
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from eventchain.contracts.backend import Task
from eventchain.formats.header import ROLL_MASK, VERSION, sha256d, target_of
from eventchain_stratum.protocol import (
    DUPLICATE,
    LOW_DIFFICULTY,
    OTHER,
    STALE,
    Refused,
    Submission,
    prevhash,
)

DIFFICULTY_1 = 0xFFFF << 208
"""The target that Stratum calls difficulty 1: about 2^32 hashes."""
AHEAD_SECONDS = 300
"""How far a miner may roll the time ahead of our clock; the engine allows more, so clocks may differ."""
LEASE_SECONDS = 30.0
"""After so long a block that a connection has not solved is given to another too."""
MAX_SHARES = 1000
"""Of one job: they are remembered, to be counted once."""

Key = tuple[bytes, bytes]
"""What a block is known by: its previous link and its manifest."""


@dataclass(eq=False, slots=True)
class Block:
    """A block to be solved. ``holders``: who works on it, and since when."""

    prev: bytes
    bits: int
    manifest: bytes
    not_before: int
    solved: bool = False
    holders: dict[Hashable, float] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        return self.prev, self.manifest

    @property
    def target(self) -> int:
        return target_of(self.bits)


def difficulty_of(target: int) -> float:
    """Stratum's difficulty of a target, rounded to the easier side: many miners read whole numbers only."""
    exact = Fraction(DIFFICULTY_1, target)
    if exact >= 1:
        exact = Fraction(int(exact))
    nearest = float(exact)
    return nearest if nearest <= exact else math.nextafter(nearest, 0.0)


def target_at(difficulty: float) -> int:
    return min(2**256 - 1, int(DIFFICULTY_1 / Fraction(difficulty)))


@dataclass(frozen=True, slots=True)
class Share:
    """A share that is right: the header as mined, its extranonce, and whether it solves the block."""

    header: bytes
    extranonce: int
    solves: bool


class Job:
    """A block as one connection works on it.

    extranonce1: the connection's; work: the expected hashes of a share, as far as the block is not easier;
    mask: version bits that it may roll; time: when it is handed out
    """

    def __init__(self, id: str, block: Block, extranonce1: bytes, work: int, mask: int, time: int) -> None:
        self.id = id
        self.block = block
        self.extranonce1 = extranonce1
        self.mask = mask
        self.time = max(time, block.not_before, 1)
        self.difficulty = difficulty_of(max(block.target, 2**256 // work - 1))
        self.target = max(block.target, target_at(self.difficulty))
        self.work = 2**256 // (self.target + 1)
        self._seen: set[tuple[bytes, int, int, int]] = set()

    def notify(self, clean: bool) -> list[Any]:
        """The parameters of ``mining.notify``: the manifest is the coinbase before the extranonce, nothing
        comes after it, and no other transaction beside it."""
        block = self.block
        return [
            self.id, prevhash(block.prev), block.manifest.hex(), "", [],
            f"{VERSION:08x}", f"{block.bits:08x}", f"{self.time:08x}", clean,
        ]  # fmt: skip

    @property
    def full(self) -> bool:
        """Whether it takes no more shares."""
        return len(self._seen) >= MAX_SHARES

    def check(self, share: Submission, now: int) -> Share:
        """Raises Refused where it is not right."""
        if self.block.solved or self.full:
            raise Refused(STALE, "this job is over")
        if not max(1, self.block.not_before) <= share.time <= max(now, self.time) + AHEAD_SECONDS:
            raise Refused(OTHER, "the time is before the block was built, or too far ahead")
        rolled = (share.version or 0) & ROLL_MASK
        if (share.version or 0) & ~self.mask & 0xFFFFFFFF & ~VERSION:
            raise Refused(OTHER, "version bits outside the mask")
        fingerprint = (share.extranonce2, share.time, share.nonce, rolled)
        if fingerprint in self._seen:
            raise Refused(DUPLICATE, "this share was submitted before")
        nonce = self.extranonce1 + share.extranonce2
        root = sha256d(self.block.manifest, nonce)
        header = struct.pack(
            "<I32s32sIII", VERSION | rolled, self.block.prev, root, share.time, self.block.bits, share.nonce
        )
        value = int.from_bytes(sha256d(header), "little")
        if value > self.target:
            raise Refused(LOW_DIFFICULTY, "the share is above the target")
        self._seen.add(fingerprint)
        return Share(header, int.from_bytes(nonce, "big"), value <= self.block.target)


class Blocks:
    """The blocks that are to be solved, the ones asked for first first."""

    def __init__(self) -> None:
        self._blocks: dict[Key, Block] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    def keep(self, task: Task, but: Iterable[Key]) -> None:
        """Only the blocks of this task, without those just solved. What is no longer asked for counts as
        solved: somebody else did it."""
        before, self._blocks = self._blocks, {}
        solved = set(but)
        rows = zip(task.headers, task.manifests, task.not_before.tolist(), strict=True)
        for header, manifest, not_before in rows:
            key = (header["prev"].tobytes(), manifest)
            if key not in solved:
                known = before.pop(key, None)
                self._blocks[key] = known or Block(key[0], int(header["bits"]), manifest, not_before)
        for block in before.values():
            block.solved = True

    def solve(self, block: Block) -> None:
        block.solved = True
        self._blocks.pop(block.key, None)

    def draw(self, holder: Hashable, now: float) -> Block | None:
        """The first block that nobody works on, or has for so long that it may be withheld; then the one with
        the fewest. None when all are solved."""
        best: Block | None = None
        fewest = 0
        for block in self._blocks.values():
            holders = sum(now - since < LEASE_SECONDS for since in block.holders.values())
            if best is None or holders < fewest:
                best, fewest = block, holders
            if not holders:
                break
        if best is not None:
            best.holders.setdefault(holder, now)
        return best
