"""What blocks say, held against the rules: policy, sealed and pinned blocks, times, and what must rise."""

from __future__ import annotations

from functools import partial

import numpy as np

from eventchain.errors import FormatError
from eventchain.formats import header as fmt
from eventchain.formats.manifest import (
    Manifest,
    Sealed,
    base_origin,
    incarnation_of,
    next_incarnation,
)
from eventchain.verify.findings import Report
from eventchain.verify.walk import Block, Walk

FUTURE = 2 * 3600
"""Seconds that a block may be ahead of the verifier's clock."""
_NO_DIGITS = dict.fromkeys(map(ord, "0123456789abcdef"))


def usable_bits(bits: int) -> bool:
    """Whether these compact bits are a target at all."""
    try:
        fmt.target_of(bits)
    except FormatError:
        return False
    return True


class Rules:
    """Checks the manifests of one branch in order, and remembers what may only rise."""

    def __init__(self, walk: Walk, report: Report, now: float) -> None:
        self._walk = walk
        self._report = report
        self._now = now
        self.origin: str | None = None  # of the newest block: of the branch, in its incarnation then
        self._named: Sealed | None = None  # the newest `sealed` line
        self._sure: int = -1  # the highest height whose named seal was right
        self._built = 0
        self._pinned = -1
        self._breaking: dict[str, tuple[int, str, int]] = {}  # rule -> first block, its message, blocks

    def fork(self, at: Block) -> None:
        """The branch goes on from this block of its parent."""
        self._built = at.said.built if at.said else 0
        self._sure = at.height

    def renew(self) -> None:
        """A link is broken: what rises along a chain, rises anew from here."""
        self._named, self._built = None, 0

    def go_on_from(self, said: Manifest) -> bool:
        """Whether what may only rise is just what the last block says: it names a seal, which is right."""
        known = said.sealed is not None and self._sure == said.sealed.height
        return known and (self._named, self._built) == (said.sealed, said.built)

    def passed(self, said: Manifest) -> None:
        """Blocks up to this one are in order, and the last says this."""
        assert said.sealed is not None
        self._named, self._sure, self._built = said.sealed, said.sealed.height, said.built

    def finish(self) -> None:
        for run in self._breaking.values():
            self._tell_policy(*run)

    def _finding(self, kind: str, message: str, height: int) -> None:
        self._report.add(kind, message, origin=self._walk.origin, height=height)

    def check(self, block: Block, said: Manifest, bits: int, time: int) -> None:
        """What the next block says, with its header's bits and time; it is not among the walk's yet."""
        height, walk = block.height, self._walk
        tell = partial(self._finding, height=height)
        self._check_origin(said, height)
        if said.height != height:
            tell("manifest", f"says height {said.height}")
        if said.size < block.first:
            tell("manifest", f"its log of {said.size} is shorter than the {block.first} leaves before it")
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

    def may_say(self, origin: str) -> bool:
        """Whether the next block may be of this origin: incarnations only rise."""
        if base_origin(origin) != base_origin(self._walk.origin):
            return False
        return self.origin is None or incarnation_of(origin) >= incarnation_of(self.origin)

    def _check_origin(self, said: Manifest, height: int) -> None:
        """Only the first block of an incarnation says another origin than the block below it, and what it
        replaces."""
        walk, before = self._walk, self.origin
        self.origin = said.origin
        if said.replaces is not None:
            follows = said.origin == next_incarnation(said.replaces.origin) and said.origin != before
            if walk.parent is not None or not height or not follows:
                self._finding("manifest", f"replaces {said.replaces.origin}, which it cannot", height)
            return
        below = walk.blocks[-1] if walk.blocks else None
        if below is None:
            if not height and said.origin != base_origin(said.origin):
                self._finding("manifest", f"a genesis of {said.origin}, which replaces nothing", height)
        elif said.origin != before and below.said is not None and below.height == height - 1:
            self._finding("manifest", f"says origin {said.origin}, and replaces nothing", height)

    def _check_child(self, said: Manifest, height: int) -> None:
        """A child's log holds its own events, numbered from 0, none late; its fork was sealed before it."""
        walk = self._walk
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
        walk, pin = self._walk, said.pin
        if walk.headless:
            return
        if walk.parent is None or base_origin(pin.origin) != base_origin(walk.parent.origin):
            self._finding("manifest", f"pins {pin.origin}, which is not its parent", height)
            return
        at = walk.parent.own(pin.height)
        if at is None:
            if not walk.parent.gone(pin.height):
                self._finding("branch", f"pins block {pin.height} of {pin.origin}, which is gone", height)
        elif at.broken:
            pass  # a finding already
        elif at.link != pin.link or (at.said is not None and at.said.origin != pin.origin):
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
        height, walk = block.height, self._walk
        tell = partial(self._breaks_policy, height)
        if said.policy is not None:
            if walk.policy is not None and not said.policy.tightens(walk.policy):
                tell(f"its policy {said.policy} does not tighten {walk.policy}")
            else:
                walk.policy = said.policy
        policy = walk.policy
        if policy is None:
            return
        if usable_bits(bits) and fmt.target_of(bits) > fmt.target_of(policy.bits):
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
        self._report.add("policy", message + alike, origin=self._walk.origin, height=first, count=count)

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
        at = self._walk.at(named.height)
        if at is None or not self._walk.seal_known(named.height):
            return  # a missing block is a finding already; so is the first seal that was wrong
        if at.seal is None:
            blocks = self._walk.blocks
            unmined = np.flatnonzero(~blocks.column("mined"))
            hole = int(blocks.column("height")[unmined[0]]) if len(unmined) else named.height
            self._finding("hole", f"is not mined, though block {height} names a seal at {named.height}", hole)
            self._walk.lose(hole)
        elif at.seal != named.seal:
            since = (
                f"between {self._sure + 1} and {named.height}"
                if named.height > self._sure + 1
                else f"of {named.height}"
            )
            self._finding(
                "seal", f"a solution {since} is not the one that block {height} names", named.height
            )
            self._walk.lose(self._sure + 1)
        else:
            self._sure = named.height
