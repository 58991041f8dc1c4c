"""The part of the trunk that a removal replaces, and the blocks that take its place.

The part begins with the block of the first removed event. Of its leaves the others stay as they are, salts
and commitments too, in their order and with the bounds of their blocks; blocks without an event left are left
out, so heights move down. All blocks are linked before any is searched, as far as ``lag`` allows: one batch.

The first new block carries ``replaces``, the policy of the old head where that was tighter, and a ``child``
line of every branch that lives on. The policy's ``events`` may cut a block in several. Where the old head
allowed fewer late leaves than the part needs, the first block keeps the old number and a last one without
leaves states the rest.

What is copied was held against the old blocks first, their roots, links and seals: a removal must not make
lawful what was altered before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from eventchain.chain.build import NO_LEAVES, Builder, Built, Clock, Leaves
from eventchain.chain.nodes import LogReader, LogWriter, damaged
from eventchain.chain.prefix import SealedPrefix, said_of
from eventchain.chain.tip import SCAN, Tip, advance, block_link, marked, policy_at, read_tips
from eventchain.chain.view import ChainView
from eventchain.contracts.chain_store import Blocks, Branch, ChainStore, Incarnation
from eventchain.errors import StoreError
from eventchain.formats.header import seal_of
from eventchain.formats.log import Frontier
from eventchain.formats.manifest import Manifest, Replaced, Sealed, next_incarnation
from eventchain.formats.policy import Policy

PAGE = 65_536
"""Leaves read at a time."""


@dataclass(frozen=True)
class Part:
    """What is replaced: the trunk's sealed blocks from ``height`` on, ``blocks`` of them, and its leaves from
    ``first`` to ``end``. kept: (end − first,) bool, the leaves that stay; positions: of all of them; ends:
    (blocks,) int64, where the old blocks' leaves end; below: the policy in force below the part, head: at its
    newest block; covered: the highest position below, −1 for none; snapshots: how many there are on the
    branches that fork from the part or pin a block of it, by origin."""

    trunk: Branch
    height: int
    first: int
    end: int
    kept: NDArray[np.bool_]
    positions: NDArray[np.int64]
    ends: NDArray[np.int64]
    below: Policy
    head: Policy
    covered: int
    snapshots: dict[str, int]

    @property
    def origin(self) -> str:
        """Of the new blocks."""
        return next_incarnation(self.trunk.origin)

    @property
    def policy(self) -> Policy:
        """What the first new block states, unless it is in force already."""
        most = max(self.late)
        return replace(self.head, late=self.below.late) if most > self.head.late else self.head

    @cached_property
    def _cut(self) -> tuple[list[int], list[int]]:
        counts, lates, covered = [], [], self.covered
        for rows in np.split(np.arange(len(self.kept)), self.ends[:-1] - self.first):
            positions = self.positions[rows[self.kept[rows]]]
            for start in range(0, len(positions), self.head.events):
                block = positions[start : start + self.head.events]
                counts.append(len(block))
                lates.append(int((block < covered).sum()))
                covered = max(covered, int(block.max()))
        return counts or [0], lates or [0]

    @property
    def counts(self) -> list[int]:
        """How many leaves each new block has, but for a last one that only states the policy."""
        return self._cut[0]

    @property
    def late(self) -> list[int]:
        """How many of them are late."""
        return self._cut[1]


def read_part(store: ChainStore, removed: NDArray[np.int64]) -> Part:
    """The part that the removal of these rising positions (n,), all of them sealed, replaces. Raises
    StoreError where the store is damaged, or a branch hangs on the part that is not of snapshots."""
    prefix = SealedPrefix(store)
    log = LogReader(store, prefix.branch.id)
    first = _first_leaf(log, prefix.size, removed)
    view = ChainView(store)
    height = view.block_of(first)
    below = view.said(height - 1)
    start = below.size
    positions = np.concatenate(
        [np.empty(0, np.int64)]
        + [log.positions(at, min(at + PAGE, prefix.size)) for at in range(start, prefix.size, PAGE)]
    )
    ends = np.array([said.size for said in _said(store, prefix, height)], np.int64)
    tips = read_tips(store)
    origin = prefix.branch.origin
    return Part(
        trunk=prefix.branch,
        height=height,
        first=start,
        end=prefix.size,
        kept=~np.isin(positions, removed),
        positions=positions,
        ends=ends,
        below=policy_at(store, tips, origin, height - 1),
        head=policy_at(store, tips, origin, prefix.height),
        covered=-1 if below.position is None else below.position,
        snapshots=_hanging(store, tips, height),
    )


def _first_leaf(log: LogReader, size: int, removed: NDArray[np.int64]) -> int:
    for at in range(0, size, PAGE):
        hits = np.flatnonzero(np.isin(log.positions(at, min(at + PAGE, size)), removed))
        if len(hits):
            return at + int(hits[0])
    raise StoreError(
        "of the events to remove none is in the log",
        hint="`eventchain verify` names everything that is wrong",
    )


def _said(store: ChainStore, prefix: SealedPrefix, first: int) -> Iterator[Manifest]:
    for rows in _rows(store, prefix.branch.id, first, prefix.height):
        yield from map(said_of, rows.manifests)


def _rows(store: ChainStore, branch: int, first: int, last: int) -> Iterator[Blocks]:
    while first <= last and len(rows := store.blocks(branch, first, min(SCAN, last + 1 - first))):
        yield rows
        first = int(rows.heights[-1]) + 1


def _hanging(store: ChainStore, tips: dict[str, Tip], height: int) -> dict[str, int]:
    """Snapshots of the branches that fork from the trunk at ``height`` or above it, or pin such a block, and
    of those that fork from them."""
    trunk = next(iter(tips))
    found: dict[str, int] = {}
    for origin, tip in tips.items():  # parents first
        if tip.parent is None:
            continue
        first = said_of(store.blocks(tip.branch.id, 0, 1).manifests[0])
        of_trunk = tip.parent == trunk
        fork = first.fork
        if fork is None:
            raise damaged(f"the branch {origin} does not say where it forks off")
        if tip.parent in found or (of_trunk and (fork.height >= height or tip.pinned >= height)):
            if first.pin is None:
                raise StoreError(
                    f"the branch {origin}, which is not of snapshots, forks off block {fork.height}",
                    hint="what is removed stands below it; without --remine events are erased in place",
                )
            found[origin] = tip.log.size
    return found


class Rebuilder(Builder):
    """Builds the new blocks. Its trunk is the incarnation, as far as it is built, and its tips are without
    the branches that will be closed."""

    def __init__(self, store: ChainStore, clock: Clock, part: Part, replaces: Replaced) -> None:
        super().__init__(store, clock)
        self.part, self._replaces = part, replaces
        old = self.trunk
        below, seal = self.block_at(old, part.height - 1)
        self._require_sound(below.link, seal)
        found = [one for one in store.incarnations() if one.origin == part.origin]
        self.incarnation: Incarnation | None = found[0] if found else None
        tip = self._tip(old, below.link, Sealed(part.height - 1, seal))
        children = {
            origin: child
            for origin, child in self.tips.items()
            if child is not old and origin not in part.snapshots
        }
        self.tips = {part.origin: tip, **children}
        named = [m for m in marked(store, old.branch.id, (b"\nchild ",)) if m.height < part.height]
        named += marked(store, tip.branch.id, (b"\nchild ",)) if found else []
        for child in children.values():
            if child.parent == old.branch.origin:
                child.parent, child.named = part.origin, -1
        for manifest in named:
            for line in manifest.children:
                if line.origin in children:
                    children[line.origin].named = line.height

    @property
    def left(self) -> int:
        """How many blocks are not linked yet."""
        more = self.part.policy != self.part.head
        return len(self.part.counts) + more - (self.trunk.height + 1 - self.part.height)

    def link(self) -> None:
        """Build and link blocks, as far as the policy's ``lag`` allows, in transactions of their own."""
        while self.left and (room := self.room(self.trunk)) > 0:
            with self.store.transaction():
                self._link(room)

    def _link(self, room: int) -> Built:
        part, tip = self.part, self.trunk
        if self.incarnation is None:
            self.incarnation = self.store.add_incarnation(part.trunk.id, part.origin, part.height)
            tip.branch = Branch(self.incarnation.id, part.origin)
            tip.log.go_on_in(self.incarnation.id)
        done = tip.height + 1 - part.height
        if done == len(part.counts):
            return self._append(tip, self._leaves(0, 0), [0], policy=part.head)
        counts = part.counts[done : done + min(room, SCAN)]
        sizes = np.cumsum(counts)
        count = max(1, int(np.searchsorted(sizes, PAGE, side="right")))
        first = tip.log.size - part.first
        states = done == 0 and part.policy != part.below
        return self._append(
            tip,
            self._leaves(first, first + int(sizes[count - 1])),
            counts[:count],
            part.late[done : done + count],
            policy=part.policy if states else None,
            replaces=self._replaces if done == 0 else None,
        )

    def _leaves(self, first: int, end: int) -> Leaves:
        """The kept leaves of these numbers."""
        part, rows = self.part, self._kept[first:end]
        if not len(rows):
            return NO_LEAVES
        start, stop = int(rows[0]), int(rows[-1]) + 1
        log, at = LogReader(self.store, part.trunk.id), rows - start
        return Leaves(
            log.leaves(start, stop)[at], log.salts(start, stop)[at], part.positions[rows - part.first]
        )

    @cached_property
    def _kept(self) -> NDArray[np.int64]:
        return self.part.first + np.flatnonzero(self.part.kept)

    def _tip(self, old: Tip, link: bytes, sealed: Sealed) -> Tip:
        """The tip of what is built so far."""
        part, number = self.part, self.incarnation.id if self.incarnation else old.branch.id
        newest = self.store.last_block(number) if self.incarnation else None
        said = said_of(newest.manifests[0]) if newest is not None else None
        size = said.size if said else part.first
        policy = part.below
        for manifest in marked(self.store, number, (b"\npolicy ",)) if said else ():
            policy = manifest.policy or policy
        tip = Tip(
            branch=Branch(number, part.origin),
            height=said.height if said else part.height - 1,
            link=block_link(newest, 0) if newest is not None else link,
            policy=policy,
            built=old.built,
            log=LogWriter(self.store, number, size),
            position=said.position if said else (part.covered if part.covered >= 0 else None),
            sealed=said.sealed if said else sealed,
        )
        if said:
            advance(self.store, tip)
        return tip

    def _require_sound(self, link: bytes, seal: bytes) -> None:
        """That the old part is what its head's seal says, and its leaves what its blocks say."""
        part, replaces = self.part, self._replaces
        log = LogReader(self.store, part.trunk.id)
        frontier = Frontier.read(part.first, log.node)
        for rows in _rows(self.store, part.trunk.id, part.height, replaces.height):
            said = list(map(said_of, rows.manifests))
            for row in range(len(rows)):
                if rows.headers[row]["prev"].tobytes() != link:
                    raise damaged(f"block {rows.heights[row]} does not link to the one below it")
                link = block_link(rows, row)
                seal = seal_of(seal, link, rows.headers[row].tobytes(), int(rows.extranonces[row]))
            done = 0
            while done < len(said):
                sizes = np.array([one.size for one in said[done:]])
                count = max(1, int(np.searchsorted(sizes, frontier.size + PAGE, side="right")))
                leaves = log.leaves(frontier.size, int(sizes[count - 1]))
                roots = frontier.extend(leaves, sizes[:count].tolist())
                for one, root in zip(said[done : done + count], roots, strict=True):
                    if one.root != root:
                        raise damaged(
                            f"the leaves of block {one.height} are not those that it was sealed with"
                        )
                done += count
        if seal != replaces.seal:
            raise damaged("a solution of the part to be replaced is not the one that was sealed")


def head_of(builder: Builder) -> tuple[int, bytes, bytes]:
    """Height, link and seal of the trunk's sealed head. Raises StoreError while blocks wait to be mined."""
    tip = builder.trunk
    if tip.unsealed or tip.sealed is None:
        raise StoreError("blocks wait to be mined", hint="`eventchain mine` seals them")
    return tip.height, tip.link, tip.sealed.seal
