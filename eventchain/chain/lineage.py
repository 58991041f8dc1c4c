"""The chain tree as it stands: every branch, where it forks, what it holds and how far it is sealed.

For people who want to see what there is. It checks nothing, goes on where rows are missing or unreadable,
and keeps what it met as ``faults``; ``eventchain.verify`` is what checks a chain. Only the blocks that are
worth naming are read, so its cost depends on the number of branches, hardly on that of blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain

import numpy as np

from eventchain.chain.tip import SCAN
from eventchain.contracts.chain_store import Blocks, Branch, ChainStore, Extent
from eventchain.errors import FormatError
from eventchain.formats.manifest import Manifest, Pointer, base_origin
from eventchain.formats.policy import Policy

ERASURES = "/erasures"
POLICY = b"\npolicy "
NEAR = 256
"""Blocks among which a readable one is looked for."""
PAGE = 16
"""Blocks read at a time: most branches are short, and of a long one a few blocks are wanted."""


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


class _Rows:
    """The blocks of one branch, read a page at a time when they are asked for; what they say is kept."""

    def __init__(self, store: ChainStore, branch: Branch, extent: Extent, faults: list[str]) -> None:
        self.branch, self.extent = branch, extent
        self._store, self._faults = store, faults
        self._pages: dict[int, Blocks] = {}
        self._said: dict[int, Manifest | None] = {}

    def said(self, height: int) -> Manifest | None:
        """What the block at this height says; None where there is no row, no manifest or another block's."""
        if height not in self._said:
            self._said[height] = self._parsed(height)
        return self._said[height]

    def mined(self, height: int) -> bool:
        page, row = self._row(height)
        return row is not None and bool(page.headers["time"][row])

    def mined_from(self, height: int) -> int:
        """How many blocks from this one on are mined and without a hole."""
        count = 0
        while self.mined(height + count):  # mostly there is none or one: then nothing more is read
            if height + count == self.extent.highest:
                return count + 1
            rows = self._store.blocks(self.branch.id, height + count, SCAN)
            expected = height + count + np.arange(len(rows))
            good = (rows.headers["time"] != 0) & (rows.heights == expected)
            count += len(rows) if good.all() else int(good.argmin())
        return count

    def stating_policies(self) -> list[int]:
        """Heights of the blocks with a policy, and maybe of some others."""
        if self.extent.blocks <= PAGE:
            return list(range(self.extent.lowest, self.extent.lowest + PAGE))
        found: list[int] = []
        while True:
            first = found[-1] + 1 if found else 0
            rows = self._store.marked(self.branch.id, [POLICY], first, SCAN)
            found += rows.heights.tolist()
            if len(rows) < SCAN:
                return found

    def newest_readable(self) -> Manifest | None:
        """The newest block, or where it is damaged one not far below; or below a hole that is large."""
        ends = (self.extent.highest, self.extent.lowest + self.extent.blocks - 1)
        heights = chain.from_iterable(range(end, max(end - NEAR, -1), -1) for end in ends)
        return next(filter(None, map(self.said, heights)), None)

    def _row(self, height: int) -> tuple[Blocks, int | None]:
        number = (height - max(self.extent.lowest, 0)) // PAGE
        page = self._pages.get(number)
        if page is None:
            first = number * PAGE + max(self.extent.lowest, 0)
            page = self._pages[number] = self._store.blocks(self.branch.id, first, PAGE)
        row = int(np.searchsorted(page.heights, height))
        return page, row if row < len(page) and page.heights[row] == height else None

    def _parsed(self, height: int) -> Manifest | None:
        page, row = self._row(height)
        if row is None:
            return None
        try:
            said = Manifest.parse(page.manifests[row])
        except FormatError as error:
            self._faults.append(f"block {height} of {self.branch.origin} cannot be read: {error.message}")
            return None
        if said.height != height or base_origin(said.origin) != base_origin(self.branch.origin):
            self._faults.append(
                f"block {height} of {self.branch.origin} says that it is block {said.height} of {said.origin}"
            )
            return None
        return said


class _Reading:
    def __init__(self, store: ChainStore) -> None:
        self._store = store
        self.faults: list[str] = []

    def tree(self) -> Tree:
        branches = self._store.branches()
        extents = {extent.branch: extent for extent in self._store.extents()}
        read: list[tuple[_Rows, Lineage]] = []
        for branch in branches:
            extent = extents.pop(branch.id, None)
            rows = _Rows(self._store, branch, extent, self.faults) if extent else None
            lineage = self._lineage(rows, is_trunk=branch is branches[0]) if rows else None
            if rows is None or lineage is None:
                self.faults.append(f"the branch {branch.origin} has no block that can be read")
            else:
                read.append((rows, lineage))
        for extent in extents.values():
            count = f"{extent.blocks:,} block{'s' if extent.blocks > 1 else ''}"
            self.faults.append(f"there is no branch {extent.branch} for {count} in the store")
        roots = self._roots([lineage for _, lineage in read])
        for rows, lineage in read:
            _add_landmarks(rows, lineage)
        return Tree(roots, self.faults)

    def _lineage(self, rows: _Rows, *, is_trunk: bool) -> Lineage | None:
        origin, extent = rows.branch.origin, rows.extent
        height, last = extent.highest, rows.newest_readable()
        if last is None:
            return None
        first = rows.said(max(extent.lowest, 0))  # below are strays
        fork = first.fork if first else None
        # Rows that were lost show against where it should begin, if that is known.
        lowest = max(extent.lowest, 0)
        root = fork.height if fork and fork.height < lowest else -1 if is_trunk else lowest - 1
        if fork and fork.height != root:
            self.faults.append(f"{origin} has blocks below block {fork.height}, which it forks off")
        missing = height - root - extent.blocks
        if missing > 0:
            self.faults.append(f"of the blocks {root + 1} to {height} of {origin} {missing:,} are missing")
        elif missing < 0 or extent.lowest != root + 1:
            self.faults.append(f"{origin} has blocks where none should be")
        sealed = last.sealed.height if last.sealed and root < last.sealed.height < height else root
        sealed += rows.mined_from(sealed + 1)
        at = rows.said(sealed) if sealed > root else None
        holder = None if is_trunk else _newest_with_leaf(rows, root, last)
        return Lineage(
            origin=origin,
            kind=Kind.TRUNK if is_trunk else _kind(origin, first, holder),
            fork=root,
            height=height,
            size=last.size,
            built=last.built,
            position=last.position,
            sealed_height=sealed,
            sealed_size=at.size if at else 0,
            forks_off=fork.origin if fork else None,
            pin=holder.pin if holder else None,
        )

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
            if id(lineage) in reached:
                continue
            root = _cut_circle(lineage)
            self.faults.append(f"{root.origin} forks off itself, by way of {root.forks_off}")
            roots.append(root)
            reached |= {id(below) for _, below in root.walk()}
        for root in roots:
            if root.forks_off is None and root.kind != Kind.TRUNK:
                self.faults.append(f"{root.origin} does not say what it forks off")
        return roots


def _cut_circle(lineage: Lineage) -> Lineage:
    """The first branch that is above itself, on the way up from one that hangs on no root; cut off there."""
    seen: set[int] = set()
    while id(lineage) not in seen and lineage.parent is not None:
        seen.add(id(lineage))
        lineage = lineage.parent
    if lineage.parent is not None:
        lineage.parent.children.remove(lineage)
        lineage.parent = None
    return lineage


def _newest_with_leaf(rows: _Rows, root: int, last: Manifest) -> Manifest | None:
    """The block that added the log's last leaf. Of the blocks above it, which only name children or state a
    policy, there may be any number."""
    if last.size == 0:
        return None
    low, high, found = root + 1, last.height, last
    middle = max(low, high - 1)  # mostly it is the newest block
    while low < high:
        at = rows.said(middle)
        if at is None:
            return None
        if at.size < last.size:
            low = middle + 1
        else:
            high, found = middle, at
        middle = (low + high) // 2
    return found


def _add_landmarks(rows: _Rows, lineage: Lineage) -> None:
    heights = {lineage.fork + 1, lineage.sealed_height, lineage.height}
    heights |= {child.fork for child in lineage.children}
    stating = set(rows.stating_policies())
    for height in sorted(heights | stating):
        said = rows.said(height) if lineage.fork < height <= lineage.height else None
        if said is None or not (said.policy or height in heights):
            continue
        before = 0
        if height > lineage.fork + 1:  # where the block below is lost, what this one added is not known
            before = (rows.said(height - 1) or said).size
        lineage.landmarks.append(Landmark(height, before, said.size, said.built, said.policy))


def _kind(origin: str, first: Manifest | None, holder: Manifest | None) -> Kind:
    if any(said is not None and said.pin is not None for said in (first, holder)):
        return Kind.SNAPSHOTS
    return Kind.ERASURES if base_origin(origin).endswith(ERASURES) else Kind.EVENTS
