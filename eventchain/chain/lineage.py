"""The chain tree as it stands: every branch, where it forks, what it holds and how far it is sealed.

For people who want to see what there is. It checks nothing, goes on where rows are missing or unreadable,
and keeps what it met as ``faults``; ``eventchain.verify`` is what checks a chain. Only the blocks that are
worth naming are read, so its cost depends on the number of branches, hardly on that of blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from eventchain.chain.tip import SCAN
from eventchain.contracts.chain_store import Blocks, Branch, ChainStore, Extent
from eventchain.errors import FormatError
from eventchain.formats.manifest import Manifest, Pointer, base_origin
from eventchain.formats.policy import Policy

ERASURES = "/erasures"
POLICY = b"\npolicy "


class Kind(StrEnum):
    """What a branch's log holds: the events that are sealed, or events of the chain's own."""

    TRUNK = "trunk"
    SNAPSHOTS = "snapshots"
    ERASURES = "erasures"
    EVENTS = "events"


@dataclass(frozen=True, slots=True)
class Landmark:
    """A block worth naming. ``before`` and ``size``: leaves in the branch's log without it and with it;
    built: unix seconds; policy: where the block states one."""

    height: int
    before: int
    size: int
    built: int
    policy: Policy | None = None


@dataclass(slots=True, eq=False)
class Lineage:
    """One branch. ``fork``: the parent's height that it forks off (−1: the trunk, or not known); its own
    blocks are ``fork + 1`` to ``height``, sealed up to ``sealed_height`` (``fork``: none), which brings its
    log to ``sealed_size`` of ``size`` leaves. ``pin``: what its newest snapshot is of."""

    origin: str
    kind: Kind
    fork: int
    height: int
    size: int
    built: int
    position: int | None
    sealed_height: int
    sealed_size: int
    forks_off: str | None = None
    pin: Pointer | None = None
    landmarks: list[Landmark] = field(default_factory=list)
    parent: Lineage | None = None
    children: list[Lineage] = field(default_factory=list)

    @property
    def blocks(self) -> int:
        return self.height - self.fork

    @property
    def unsealed(self) -> int:
        """Blocks that wait to be mined."""
        return self.height - self.sealed_height

    @property
    def name(self) -> str:
        """The origin without its parent's."""
        over = "" if self.parent is None else f"{base_origin(self.parent.origin)}/"
        return self.origin.removeprefix(over) if over else self.origin

    def walk(self) -> Iterator[tuple[int, Lineage]]:
        """This branch and all below it with their depth, each before its own; siblings by their fork."""
        waiting = [(0, self)]
        while waiting:
            depth, lineage = waiting.pop()
            yield depth, lineage
            waiting += [(depth + 1, child) for child in reversed(lineage.children)]


@dataclass(frozen=True, slots=True)
class Tree:
    """``roots``: the trunk, and then every branch whose parent cannot be told. faults: what could not be
    shown as it should be, for people."""

    roots: list[Lineage]
    faults: list[str]

    def walk(self) -> Iterator[tuple[int, Lineage]]:
        for root in self.roots:
            yield from root.walk()


def read_tree(store: ChainStore) -> Tree:
    """All branches of a chain store. Raises StoreError only where the store itself cannot be read."""
    return _Reading(store).tree()


class _Reading:
    def __init__(self, store: ChainStore) -> None:
        self._store = store
        self.faults: list[str] = []

    def tree(self) -> Tree:
        branches = self._store.branches()
        extents = {extent.branch: extent for extent in self._store.extents()}
        lineages = {}
        for branch in branches:
            extent = extents.pop(branch.id, None)
            lineage = self._lineage(branch, extent, branch is branches[0]) if extent else None
            if lineage is None:
                self.faults.append(f"the branch {branch.origin} has no block that can be read")
            else:
                lineages[branch] = lineage
        for extent in extents.values():
            count = f"{extent.blocks:,} block{'s' if extent.blocks > 1 else ''}"
            self.faults.append(f"there is no branch {extent.branch} for {count} in the store")
        if not branches:
            self.faults.append("there is no branch at all")
        roots = self._roots(list(lineages.values()))
        for branch, lineage in lineages.items():
            self._add_landmarks(branch, lineage)
        return Tree(roots, list(dict.fromkeys(self.faults)))  # a block may have been read twice

    # -- one branch

    def _lineage(self, branch: Branch, extent: Extent, is_trunk: bool) -> Lineage | None:
        first = self._said(branch, self._store.blocks(branch.id, 0, 1))
        newest = self._store.last_block(branch.id)
        if not len(newest):
            return None
        height = int(newest.heights[0])
        last = self._said(branch, newest) or self._newest_readable(branch, extent)
        if last is None:
            return None
        fork = first.fork if first else None
        # Rows that were lost show against where it should begin, if that is known.
        root = fork.height if fork else -1 if is_trunk else extent.lowest - 1
        if extent.lowest != root + 1 or extent.blocks != height - root:
            missing = height - root - extent.blocks
            self.faults.append(
                f"of the blocks {root + 1} to {height} of {branch.origin} {missing:,} are missing"
                if missing > 0
                else f"{branch.origin} has blocks where none should be"
            )
        sealed_height, sealed = self._sealed(branch, root, newest, last)
        holder = None if is_trunk else self._newest_with_leaf(branch, root, last)
        return Lineage(
            origin=branch.origin,
            kind=Kind.TRUNK if is_trunk else _kind(branch.origin, first, holder),
            fork=root,
            height=height,
            size=last.size,
            built=last.built,
            position=last.position,
            sealed_height=sealed_height,
            sealed_size=sealed.size if sealed else 0,
            forks_off=fork.origin if fork else None,
            pin=holder.pin if holder else None,
        )

    def _said(self, branch: Branch, rows: Blocks, row: int = 0) -> Manifest | None:
        """What the block of a row says; None for what is no manifest, or another block's."""
        if row >= len(rows):
            return None
        height = int(rows.heights[row])
        try:
            said = Manifest.parse(rows.manifests[row])
        except FormatError as error:
            self.faults.append(f"block {height} of {branch.origin} cannot be read: {error.message}")
            return None
        if said.height != height or base_origin(said.origin) != base_origin(branch.origin):
            self.faults.append(
                f"block {height} of {branch.origin} says that it is block {said.height} of {said.origin}"
            )
            return None
        return said

    def _newest_readable(self, branch: Branch, extent: Extent) -> Manifest | None:
        """For a branch whose newest block is damaged: the newest one below, if it is near."""
        rows = self._store.blocks(branch.id, extent.highest - SCAN, SCAN)
        for raw in reversed(rows.manifests):
            try:
                return Manifest.parse(raw)
            except FormatError:
                continue
        return None

    def _sealed(
        self, branch: Branch, root: int, newest: Blocks, last: Manifest
    ) -> tuple[int, Manifest | None]:
        """The newest sealed block: what the newest block names, and all that is mined from there on."""
        height = max(root, last.sealed.height if last.sealed else root)
        if height >= newest.heights[0]:  # a lie
            height = root
        if height + 1 == newest.heights[0]:  # mostly there is only one block to look at, and it is at hand
            if newest.headers["time"][0]:
                return height + 1, last
        else:
            while True:
                rows = self._store.blocks(branch.id, height + 1, SCAN)
                good = (rows.headers["time"] != 0) & (rows.heights == height + 1 + np.arange(len(rows)))
                count = len(rows) if good.all() else int(good.argmin())
                height += count
                if count < SCAN:
                    break
        if height <= root:
            return root, None
        return height, self._at(branch, height)

    def _at(self, branch: Branch, height: int) -> Manifest | None:
        rows = self._store.blocks(branch.id, height, 1)
        return self._said(branch, rows) if len(rows) and rows.heights[0] == height else None

    def _newest_with_leaf(self, branch: Branch, root: int, last: Manifest) -> Manifest | None:
        """The block that added the log's last leaf. Of the blocks above it, which only name children or
        state a policy, there may be any number."""
        low, high, found = root + 1, last.height, last
        if last.size == 0:
            return None
        before = self._at(branch, high - 1) if high > low else None
        if before is None or before.size < last.size:
            return last
        while low < high:
            middle = (low + high) // 2
            at = self._at(branch, middle)
            if at is None:
                return None
            if at.size < last.size:
                low = middle + 1
            else:
                high, found = middle, at
        return found

    # -- how they hang together

    def _roots(self, lineages: list[Lineage]) -> list[Lineage]:
        known: dict[str, Lineage] = {}
        for lineage in lineages:
            known.setdefault(base_origin(lineage.origin), lineage)
        for lineage in lineages:
            if lineage.forks_off is None:
                continue
            parent = known.get(base_origin(lineage.forks_off))
            if parent is None:
                self.faults.append(f"{lineage.origin} forks off {lineage.forks_off}, which is not there")
            else:
                lineage.parent = parent
                parent.children.append(lineage)
                if not parent.fork < lineage.fork <= parent.height:
                    self.faults.append(
                        f"{lineage.origin} forks off block {lineage.fork} of {parent.origin}, "
                        "which is not there"
                    )
        for lineage in lineages:
            lineage.children.sort(key=lambda child: child.fork)  # stable: then as they were made
        roots = [lineage for lineage in lineages if lineage.parent is None]
        reached = {id(below) for root in roots for _, below in root.walk()}
        for lineage in lineages:
            if id(lineage) not in reached and lineage.parent is not None:
                self.faults.append(f"{lineage.origin} forks off itself, by way of {lineage.forks_off}")
                lineage.parent.children.remove(lineage)
                lineage.parent = None
                roots.append(lineage)
                reached |= {id(below) for _, below in lineage.walk()}
        for root in roots:
            if root.forks_off is None and root.kind != Kind.TRUNK:
                self.faults.append(f"{root.origin} does not say what it forks off")
        return roots

    # -- its blocks that are worth naming

    def _add_landmarks(self, branch: Branch, lineage: Lineage) -> None:
        stated: dict[int, Policy] = {}
        first = 0
        while len(rows := self._store.marked(branch.id, [POLICY], first, SCAN)):
            for row in range(len(rows)):
                said = self._said(branch, rows, row)
                if said is not None and said.policy is not None:
                    stated[said.height] = said.policy
            first = int(rows.heights[-1]) + 1
        heights = {lineage.fork + 1, lineage.sealed_height, lineage.height, *stated}
        heights |= {child.fork for child in lineage.children}
        for height in sorted(heights):
            if lineage.fork < height <= lineage.height:
                self._add_landmark(branch, lineage, height, stated.get(height))

    def _add_landmark(self, branch: Branch, lineage: Lineage, height: int, policy: Policy | None) -> None:
        rows = self._store.blocks(branch.id, max(height - 1, lineage.fork + 1), 2)
        at = [self._said(branch, rows, row) for row in range(len(rows)) if rows.heights[row] <= height]
        if at and at[-1] is not None and at[-1].height == height:
            said, before = at[-1], at[0].size if len(at) == 2 and at[0] else 0
            if len(at) == 1 and height > lineage.fork + 1:
                before = said.size  # the block below is lost: what this one added is not known
            lineage.landmarks.append(Landmark(height, before, said.size, said.built, policy))


def _kind(origin: str, first: Manifest | None, holder: Manifest | None) -> Kind:
    if any(said is not None and said.pin is not None for said in (first, holder)):
        return Kind.SNAPSHOTS
    return Kind.ERASURES if base_origin(origin).endswith(ERASURES) else Kind.EVENTS
