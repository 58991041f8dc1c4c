"""One branch's blocks: manifests, links, headers, work, policy and seals, from the rows alone.

Re-derives everything from the bytes and shares no logic with the builder. After a break it goes on with
what the rows say from there, so that one edit is one finding.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from eventchain.contracts.chain_store import Blocks, Branch, ChainStore
from eventchain.errors import FormatError
from eventchain.formats import header as fmt
from eventchain.formats.manifest import Manifest, Sealed, base_origin
from eventchain.formats.policy import Policy
from eventchain.verify.findings import Report

CHUNK = 4096
NEVER = 2**63
_NO_DIGITS = dict.fromkeys(map(ord, "0123456789abcdef"))
FUTURE = 2 * 3600
"""Seconds that a block may be ahead of the verifier's clock."""


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


def walk_branch(
    store: ChainStore, branch: Branch, walks: dict[str, Walk], report: Report, now: float
) -> Walk:
    """Check one branch whose parent, if it has one, is in ``walks``."""
    walker = _Walker(branch, walks, report, now)
    first = 0
    while True:
        rows = store.blocks(branch.id, first, CHUNK)
        if len(rows):
            walker.take(rows)
            first = int(rows.heights[-1]) + 1
        if len(rows) < CHUNK or first >= NEVER:
            return walker.finish()


class _Walker:
    def __init__(self, branch: Branch, walks: dict[str, Walk], report: Report, now: float) -> None:
        self.walk = Walk(branch)
        self._walks = walks
        self._report = report
        self._now = now
        self._before: Block | None = None  # the block below, through the fork
        self._named: Sealed | None = None  # the newest `sealed` line
        self._sure: int = -1  # the highest height whose named seal was right
        self._built = 0
        self._pinned = -1
        self._breaking: dict[str, tuple[int, str, int]] = {}  # rule -> first block, its message, blocks

    def _finding(self, kind: str, message: str, height: int, notice: bool = False) -> None:
        self._report.add(kind, message, origin=self.walk.origin, height=height, notice=notice)

    def take(self, rows: Blocks) -> None:
        headers = rows.headers
        usable = np.array([_usable_bits(int(bits)) for bits in headers["bits"]], np.bool_)
        met = np.zeros(len(rows), np.bool_)
        if usable.any():
            met[usable] = fmt.meets_target(headers[usable])
        for row in range(len(rows)):
            self._block(rows, row, bool(usable[row]), bool(met[row]))

    # -- one block

    def _block(self, rows: Blocks, row: int, usable: bool, met: bool) -> None:
        height, raw, header = int(rows.heights[row]), rows.manifests[row], rows.headers[row]
        extranonce, bits = int(rows.extranonces[row]), int(header["bits"])
        prev, mined = header["prev"].tobytes(), int(header["time"]) != 0
        block = Block(height, None, fmt.link_of(prev, raw, bits), mined)

        try:
            block.said = Manifest.parse(raw)
        except FormatError as error:
            self._finding("manifest", error.message, height)
            block.broken = True
        fits = _fits(header, raw, extranonce)
        if block.said is not None and fits and self._misplaced(block.said, height):
            return
        above = rows.headers["prev"][row + 1].tobytes() if row + 1 < len(rows) else None
        if not fits and above != block.link:
            block.said = None  # neither its header nor the next block vouches for what it says
        if not self.walk.blocks:
            self._start(block)
        self._follows(block)
        if not block.broken:
            block.broken = self._header(block, header, extranonce, fits, usable, met)
        if not block.broken:
            block.broken = self._links(block, prev)
        if block.broken:
            self._lose(height)  # seals above it follow from it
        if block.said is not None:
            self._says(block, block.said, bits, int(header["time"]))
        else:
            block.first = block.end = self._before.end if self._before and self.walk.blocks else 0
        self._seal(block, header.tobytes(), extranonce)

        self.walk.blocks.append(block)
        self.walk.by_height[height] = block
        self._before = block

    def _misplaced(self, said: Manifest, height: int) -> bool:
        """Whether this is a block as it was built in another block's row. It is passed over then."""
        if (said.origin, said.height) == (self.walk.origin, height):
            return False
        self._finding("block", f"its row holds block {said.height} of {said.origin}", height)
        return True

    def _lose(self, height: int) -> None:
        self.walk.lost = min(self.walk.lost, height)

    def _start(self, block: Block) -> None:
        """The branch's first block: a genesis, or a fork."""
        said, walk = block.said, self.walk
        fork = said.fork if said else None
        if fork is None:
            trunk = walk.trunk = not any(known.trunk for known in self._walks.values())
            if block.height and not trunk:
                if said is not None:
                    self._finding("block", "the first block, the one that forks, is missing", block.height)
                walk.headless, block.vague = True, True
                self._lose(0)
            elif said is not None and not block.height and (said.size or said.policy is None):
                self._finding("manifest", "a genesis has no events and a policy", block.height)
            if not block.height and not trunk:
                self._finding("branch", "a second branch without a fork", block.height)
            return
        parent = self._walks.get(fork.origin)
        at = parent.by_height.get(fork.height) if parent else None
        if parent is None or at is None:
            if parent is None or (parent.blocks and not parent.gone(fork.height)):
                self._finding(
                    "branch", f"forks off {fork.origin} {fork.height}, which is not there", block.height
                )
            walk.headless = True
            self._lose(0)
            return
        if not parent.seal_known(fork.height):
            self._lose(fork.height)
        elif at.seal is None:
            self._finding("branch", f"forks off block {fork.height}, which is not sealed", block.height)
            self._lose(fork.height)
        walk.parent, walk.fork = parent, fork.height
        walk.policy = parent.policy_at(fork.height)
        walk.sealed = fork.height if at.seal is not None else -1
        self._before = at
        self._built = at.said.built if at.said else 0
        self._sure = fork.height

    def _follows(self, block: Block) -> None:
        """Its height against the block below."""
        if self.walk.headless and not self.walk.blocks:
            return
        expected = self._before.height + 1 if self._before else 0
        if block.height != expected:
            if block.height < expected:  # of a first block only: rows come by rising height
                self._finding("block", f"stands below its fork at {expected - 1}", block.height)
            else:
                last = block.height - 1
                gone = f"block {expected} is" if last == expected else f"blocks {expected} to {last} are"
                self._finding("block", f"{gone} missing before block {block.height}", expected)
            self._lose(min(expected, block.height))

    def _links(self, block: Block, prev: bytes) -> bool:
        """Its link against the block below. Returns whether it is a finding."""
        if self._before is None:
            wrong = not self.walk.headless and block.height == 0 and prev != fmt.ZERO
        else:  # below a gap, and of a block that was altered, the link is not known
            wrong = self._before.height == block.height - 1 and prev != self._before.link
            wrong &= not self._before.broken
        if wrong:
            self._finding("link", f"does not link to the block at height {block.height - 1}", block.height)
            self._named, self._built = None, 0  # what rises along a chain, rises anew from here
        return wrong

    def _header(
        self, block: Block, header: np.void, extranonce: int, fits: bool, usable: bool, met: bool
    ) -> bool:
        """What was found, against what the block says. Returns whether it is a finding."""
        height, rolled = block.height, int(header["version"]) & fmt.ROLL_MASK
        wrong = []
        if int(header["version"]) & ~fmt.ROLL_MASK != fmt.VERSION:
            wrong.append("its version is not 0x20000000 outside the bits that miners roll")
        if not 0 <= extranonce <= fmt.MAX_EXTRANONCE:
            wrong.append("its extranonce is out of range")
        elif not fits:
            wrong.append("its merkle root is not of its manifest and extranonce")
        if not usable:
            wrong.append(f"its bits {int(header['bits']):08x} are no target")
        if not block.mined and (int(header["nonce"]) or rolled or extranonce):
            wrong.append("it has a solution and no time")
        if wrong:
            empty = not any(header.tobytes())
            self._finding("header", "its header is gone" if empty else "; ".join(wrong), height)
            return True
        if block.mined and not met:
            self._finding("work", "its hash is above its target", height)
            return True
        return False

    # -- what it says

    def _says(self, block: Block, said: Manifest, bits: int, time: int) -> None:
        height, walk = block.height, self.walk
        tell = partial(self._finding, height=height)
        if said.origin != walk.origin:
            tell("manifest", f"says origin {said.origin}")
        if said.height != height:
            tell("manifest", f"says height {said.height}")
        first = self._before.end if self._before and walk.blocks else 0
        if said.size < first:
            tell("manifest", f"its log of {said.size} is shorter than the {first} leaves before it")
        block.first, block.end = first, max(first, said.size)
        below = walk.blocks[-1] if walk.blocks else None
        if below is not None:
            block.vague = below.said is None or below.height != height - 1
        if walk.blocks:
            last = walk.blocks[-1].said
            if said.fork is not None:
                tell("manifest", "a fork that is not the branch's first block")
            if last is not None and last.position is not None:
                if said.position is None or said.position < last.position:
                    tell("manifest", "its position falls")
                if said.position != last.position and said.size - last.size <= said.late:
                    tell("manifest", "its position moves without a leaf")
        if said.fork is not None or walk.parent is not None:
            self._check_child(said, height)
        if said.replaces is not None:
            tell("manifest", f"replaces {said.replaces.origin}, of which nothing is archived")
        self._check_pin(said, height, block.vague)
        self._check_policy(said, bits, block)
        self._check_sealed(said, height)
        if said.built < self._built:
            tell("time", f"built {self._built - said.built} seconds before the block below it")
        self._built = max(self._built, said.built)
        if said.built > self._now + FUTURE:
            tell("time", f"built {int(said.built - self._now)} seconds in the future")
        if time and time < said.built:
            tell("time", f"mined {said.built - time} seconds before it was built")
        if time > self._now + FUTURE:
            tell("time", f"mined {int(time - self._now)} seconds in the future")

    def _check_child(self, said: Manifest, height: int) -> None:
        """A child's log holds its own events, numbered from 0, none late; its fork was sealed before it."""
        walk = self.walk
        if (said.size and said.position != said.size - 1) or said.late:
            self._finding("manifest", f"a child's log of {said.size} through {said.position}", height)
        if walk.parent is None:
            return
        if (said.sealed.height if said.sealed else -1) < walk.fork:
            self._finding("manifest", f"names no seal from its fork at {walk.fork} on", height)
        if said.fork and not walk.origin.startswith(base_origin(walk.parent.origin) + "/"):
            self._finding("branch", f"a child of {walk.parent.origin} by another name", height)

    def _check_pin(self, said: Manifest, height: int, vague: bool) -> None:
        if said.pin is None:
            return
        walk, pin = self.walk, said.pin
        if walk.headless:
            return
        if walk.parent is None or pin.origin != walk.parent.origin:
            self._finding("manifest", f"pins {pin.origin}, which is not its parent", height)
            return
        at = walk.parent.by_height.get(pin.height)
        if at is None:
            if not walk.parent.gone(pin.height):
                self._finding("branch", f"pins block {pin.height} of {pin.origin}, which is gone", height)
        elif at.broken:
            pass  # a finding already
        elif at.link != pin.link:
            self._finding("branch", f"pins block {pin.height} of {pin.origin}, which is another now", height)
        elif at.said is not None and at.said.built > said.built:
            self._finding("time", f"pins block {pin.height} of {pin.origin}, built later", height)
        elif at.seal is None and walk.parent.seal_known(pin.height):
            self._finding("manifest", f"pins block {pin.height} of {pin.origin}, which is not sealed", height)
        if pin.height <= self._pinned:
            self._finding("manifest", f"pins block {pin.height} after block {self._pinned}", height)
        below = walk.blocks[-1].end if walk.blocks else 0
        if said.size - below != 1 and not vague:
            self._finding("manifest", "pins a block and does not hold exactly one leaf", height)
        self._pinned = max(self._pinned, pin.height)

    def _check_policy(self, said: Manifest, bits: int, block: Block) -> None:
        height, walk = block.height, self.walk
        tell = partial(self._breaks_policy, height)
        if said.policy is not None:
            if walk.policy is not None and not said.policy.tightens(walk.policy):
                tell(f"its policy {said.policy} does not tighten {walk.policy}")
            else:
                walk.policy = said.policy
        policy = walk.policy
        if policy is None:
            return
        if _usable_bits(bits) and fmt.target_of(bits) > fmt.target_of(policy.bits):
            tell(f"its bits {bits:08x} are easier than {policy.bits:08x}")
        if block.end - block.first > policy.events and not block.vague:
            tell(f"it adds {block.end - block.first} events; {policy.events} are allowed")
        if said.late > policy.late:
            tell(f"it adds {said.late} late events; {policy.late} are allowed")
        if said.late > block.end - block.first:
            self._finding("manifest", "it has more late leaves than leaves", height)
        sealed = said.sealed.height if said.sealed else -1
        if height - sealed > policy.lag:
            tell(f"it is {height - sealed} blocks ahead of the newest sealed block; {policy.lag} are allowed")

    def _breaks_policy(self, height: int, message: str) -> None:
        """One finding for a run of blocks that break a rule alike."""
        rule = message.translate(_NO_DIGITS)
        first, first_message, count = self._breaking.pop(rule, (height, message, 0))
        if first + count != height:
            self._tell_policy(first, first_message, count)
            first, first_message, count = height, message, 0
        self._breaking[rule] = first, first_message, count + 1

    def _tell_policy(self, first: int, message: str, count: int) -> None:
        alike = f"; likewise each block through {first + count - 1}" if count > 1 else ""
        self._report.add("policy", message + alike, origin=self.walk.origin, height=first, count=count)

    def _check_sealed(self, said: Manifest, height: int) -> None:
        before, named = self._named, said.sealed
        if named is None:
            if before is not None:
                self._finding("manifest", "names no sealed block after one was named", height)
            return
        if named.height >= height:
            self._finding("manifest", f"names the sealed block {named.height}, which is not below it", height)
            return
        if before is not None and named.height < before.height:
            self._finding("manifest", f"names the sealed block {named.height} after {before.height}", height)
            return
        self._named = named
        at = self.walk.at(named.height)
        if at is None or not self.walk.seal_known(named.height):
            return  # a missing block is a finding already; so is the first seal that was wrong
        if at.seal is None:
            hole = next((block.height for block in self.walk.blocks if not block.mined), named.height)
            self._finding("hole", f"is not mined, though block {height} names a seal at {named.height}", hole)
            self._lose(hole)
        elif at.seal != named.seal:
            since = (
                f"between {self._sure + 1} and {named.height}"
                if named.height > self._sure + 1
                else f"of {named.height}"
            )
            self._finding(
                "seal", f"a solution {since} is not the one that block {height} names", named.height
            )
            self._lose(self._sure + 1)
        else:
            self._sure = named.height

    def _seal(self, block: Block, header: bytes, extranonce: int) -> None:
        """The sealed prefix: mined, and everything below it, and what it pins."""
        if not block.mined or not 0 <= extranonce <= fmt.MAX_EXTRANONCE:
            return
        if self.walk.sealed != block.height - 1:
            return
        below = self._before.seal if self._before else fmt.ZERO
        pin = block.said.pin if block.said else None
        pinned = self.walk.parent.by_height.get(pin.height) if pin and self.walk.parent else None
        if pin and (pinned is None or pinned.seal is None):
            if self.walk.parent is None or not self.walk.parent.seal_known(pin.height):
                self._lose(block.height)
            return
        if below is None:
            return
        block.seal = fmt.seal_of(below, block.link, header, extranonce)
        self.walk.sealed = block.height

    def finish(self) -> Walk:
        walk = self.walk
        for run in self._breaking.values():
            self._tell_policy(*run)
        if not walk.blocks:
            self._report.add("branch", "has no blocks", origin=walk.origin)
            return walk
        tail = [block for block in walk.blocks if block.seal is None]
        if tail and walk.lost == NEVER:
            waiting = [block for block in tail if not block.mined]
            first = waiting[0].height if waiting else tail[0].height
            through = "nothing" if walk.sealed < 0 else f"block {walk.sealed}"
            blocks_wait = "one block waits" if len(waiting) == 1 else f"{len(waiting):,} blocks wait"
            self._finding(
                "unsealed-tail",
                f"{blocks_wait} to be mined; sealed is {through}",
                first,
                notice=True,
            )
        return walk


def _fits(header: np.void, raw: bytes, extranonce: int) -> bool:
    """Whether the header is of this manifest and extranonce."""
    if not 0 <= extranonce <= fmt.MAX_EXTRANONCE:
        return False
    return bool(header["merkle_root"].tobytes() == fmt.merkle_root(raw, extranonce))


def _usable_bits(bits: int) -> bool:
    try:
        fmt.target_of(bits)
    except FormatError:
        return False
    return True
