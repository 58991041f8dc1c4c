"""One branch's blocks: rows, links, headers, work and seals.

Re-derives everything from the bytes and shares no logic with the builder. After a break it goes on with
what the rows say from there, so that one edit is one finding.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from eventchain.contracts.chain_store import Blocks, Branch, ChainStore
from eventchain.errors import FormatError
from eventchain.formats import header as fmt
from eventchain.formats.manifest import Manifest
from eventchain.verify.findings import Report
from eventchain.verify.headers import Derived, derived
from eventchain.verify.rules import Rules
from eventchain.verify.walk import NEVER, Block, Walk

CHUNK = 8192


def walk_branch(
    store: ChainStore, branch: Branch, walks: dict[str, Walk], report: Report, now: float
) -> Walk:
    """Check one branch whose parent, if it has one, is in ``walks``."""
    walker = _Walker(branch, walks, report, now)
    for rows, found in derived(_runs(store, branch)):
        walker.take(rows, found)
    return walker.finish()


def _runs(store: ChainStore, branch: Branch) -> Iterator[Blocks]:
    first = 0
    while first < NEVER and len(rows := store.blocks(branch.id, first, CHUNK)):
        yield rows
        first = int(rows.heights[-1]) + 1


class _Walker:
    def __init__(self, branch: Branch, walks: dict[str, Walk], report: Report, now: float) -> None:
        self.walk = Walk(branch)
        self._walks = walks
        self._report = report
        self._rules = Rules(self.walk, report, now)
        self._before: Block | None = None  # the block below, through the fork

    def _finding(self, kind: str, message: str, height: int, notice: bool = False) -> None:
        self._report.add(kind, message, origin=self.walk.origin, height=height, notice=notice)

    def take(self, rows: Blocks, found: Derived) -> None:
        for row in range(len(rows)):
            self._block(rows, row, found)

    # -- one block

    def _block(self, rows: Blocks, row: int, found: Derived) -> None:
        height, raw, header = int(rows.heights[row]), rows.manifests[row], rows.headers[row]
        extranonce, bits = int(rows.extranonces[row]), int(header["bits"])
        prev, mined = header["prev"].tobytes(), int(header["time"]) != 0
        block = Block(height, None, found.links[row].tobytes(), mined)

        try:
            block.said = Manifest.parse(raw)
        except FormatError as error:
            self._finding("manifest", error.message, height)
            block.broken = True
        fits, usable, met = (bool(column[row]) for column in found[1:])
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
            self.walk.lose(height)  # seals above it follow from it
        self._place(block)
        if block.said is not None:
            self._rules.check(block, block.said, bits, int(header["time"]))
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

    def _place(self, block: Block) -> None:
        """Which leaves are the block's."""
        below = self.walk.blocks[-1] if self.walk.blocks else None
        block.first = block.end = below.end if below else 0
        if block.said is None:
            return
        block.end = max(block.first, block.said.size)
        if below is not None:
            block.vague = below.said is None or below.height != block.height - 1

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
                self.walk.lose(0)
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
            self.walk.lose(0)
            return
        if not parent.seal_known(fork.height):
            self.walk.lose(fork.height)
        elif at.seal is None:
            self._finding("branch", f"forks off block {fork.height}, which is not sealed", block.height)
            self.walk.lose(fork.height)
        walk.parent, walk.fork = parent, fork.height
        walk.policy = parent.policy_at(fork.height)
        walk.sealed = fork.height if at.seal is not None else -1
        self._before = at
        self._rules.fork(at)

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
            self.walk.lose(min(expected, block.height))

    def _links(self, block: Block, prev: bytes) -> bool:
        """Its link against the block below. Returns whether it is a finding."""
        if self._before is None:
            wrong = not self.walk.headless and block.height == 0 and prev != fmt.ZERO
        else:  # below a gap, and of a block that was altered, the link is not known
            wrong = self._before.height == block.height - 1 and prev != self._before.link
            wrong &= not self._before.broken
        if wrong:
            self._finding("link", f"does not link to the block at height {block.height - 1}", block.height)
            self._rules.renew()
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
                self.walk.lose(block.height)
            return
        if below is None:
            return
        block.seal = fmt.seal_of(below, block.link, header, extranonce)
        self.walk.sealed = block.height

    def finish(self) -> Walk:
        walk = self.walk
        self._rules.finish()
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
