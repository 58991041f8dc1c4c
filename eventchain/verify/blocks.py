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
from eventchain.formats.hashing import equal_rows
from eventchain.formats.manifest import Manifest
from eventchain.verify import plain
from eventchain.verify.findings import Report
from eventchain.verify.headers import Derived, derived
from eventchain.verify.rules import FUTURE, Rules
from eventchain.verify.walk import NEVER, Block, Plain, Walk, find_walk

CHUNK = 8192
STRIDE = 16
"""Blocks in order that are taken at once at first; twice as many each time that they were."""


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
        self._latest = now + FUTURE
        self._stride = STRIDE
        self._before: Block | None = None  # the block below, through the fork

    def _finding(self, kind: str, message: str, height: int, notice: bool = False) -> None:
        self._report.add(kind, message, origin=self.walk.origin, height=height, notice=notice)

    def take(self, rows: Blocks, found: Derived) -> None:
        row, origin = 0, ""
        while row < len(rows):
            now = self._rules.origin or self.walk.origin
            if not row or now != origin:  # the blocks of an incarnation, and those of the next
                origin = now
                said = plain.read(origin, rows.manifests)
                in_order = plain.in_order(rows, found, said, self._latest)
                ends = np.flatnonzero(~in_order)  # of runs in order
            if in_order[row] and self._undisturbed():
                end = int(ends[np.searchsorted(ends, row)]) if row < ends[-1] else len(rows)
                cut = slice(row, min(end, row + self._stride))
                taken = self._run(rows, found, said, cut)
                self._stride = 2 * self._stride if taken == cut.stop - cut.start else STRIDE
                row += taken
                if taken:
                    continue
            self._block(rows, row, found)
            row += 1

    # -- many blocks

    def _undisturbed(self) -> bool:
        """Whether the block below is the last of a trunk in which everything was in order so far, and no
        rule looks further back than to that block."""
        walk, below = self.walk, self._before
        return (
            below is not None
            and below.said is not None
            and below.seal is not None
            and not (below.broken or below.vague or walk.headless)
            and walk.parent is None
            and (walk.policy is not None and walk.lost == NEVER)
            and len(walk.blocks) == below.height + 1 == walk.sealed + 1
            and (below.said.origin, below.said.size) == (self._rules.origin, below.end)
            and self._rules.go_on_from(below.said)
        )

    def _run(self, rows: Blocks, found: Derived, said: plain.Said, cut: slice) -> int:
        """Add plain blocks in order, up to the first in which there is more to find; returns how many."""
        walk, below = self.walk, self._before
        assert below is not None
        assert below.said is not None
        assert below.seal is not None
        assert walk.policy is not None
        headers, links = rows.headers[cut], found.links[cut]
        seals = fmt.seals_of(below.seal, links, headers, rows.extranonces[cut])
        size = np.concatenate([[below.end], said.size[cut]])
        fine = plain.allowed(walk.policy, headers["bits"], size, said.height[cut] - said.named[cut])
        named, first = said.named[cut], below.height + 1
        earlier = named < first
        at = np.where(earlier[:, None], walk.blocks.column("seal")[np.where(earlier, named, 0)], 0)
        at[~earlier] = seals[named[~earlier] - first]
        fine &= equal_rows(at, said.seal[cut])
        count = len(fine) if fine.all() else int(fine.argmin())
        if count:
            cut = slice(cut.start, cut.start + count)
            walk.blocks.extend(
                Plain(
                    height=said.height[cut],
                    size=said.size[cut],
                    position=said.position[cut],
                    built=said.built[cut],
                    named=said.named[cut],
                    root=said.root[cut],
                    leaves=said.leaves[cut],
                    link=found.links[cut],
                    seal=seals[:count],
                ),
                below.said.origin,
            )
            walk.sealed += count
            self._before = last = walk.blocks[-1]
            assert last.said is not None
            self._rules.passed(last.said)
        return count

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
        self._before = block

    def _misplaced(self, said: Manifest, height: int) -> bool:
        """Whether this is a block as it was built in another block's row. It is passed over then."""
        if said.height == height and self._rules.may_say(said.origin):
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
        parent = find_walk(self._walks, fork.origin)
        at = parent.own(fork.height) if parent else None
        if at is not None and at.said is not None and at.said.origin != fork.origin:
            at = None  # of another incarnation
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
        pinned = self.walk.parent.own(pin.height) if pin and self.walk.parent else None
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
        unsealed = np.flatnonzero(~walk.blocks.column("sealed"))
        if len(unsealed) and walk.lost == NEVER:
            waiting = unsealed[~walk.blocks.column("mined")[unsealed]]
            first = int(walk.blocks.column("height")[waiting[0] if len(waiting) else unsealed[0]])
            through = "nothing" if walk.sealed < 0 else f"block {walk.sealed}"
            blocks_wait = "one block waits" if len(waiting) == 1 else f"{len(waiting):,} blocks wait"
            self._finding(
                "unsealed-tail",
                f"{blocks_wait} to be mined; sealed is {through}",
                first,
                notice=True,
            )
        return walk
