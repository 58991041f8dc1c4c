"""The tip of a branch: everything that its next block depends on, and how far it is sealed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from eventchain.chain.nodes import LogWriter, damaged
from eventchain.contracts.chain_store import Blocks, Branch, ChainStore
from eventchain.errors import FormatError
from eventchain.formats.header import ZERO, link_of, meets_target, merkle_root, seal_of
from eventchain.formats.manifest import Manifest, Sealed, base_origin
from eventchain.formats.policy import Policy

HEIGHT_BITS = 40
"""A block every millisecond fills them in 35 years."""
SCAN = 4096
"""Blocks read at a time."""
Stated = dict[str, list[Manifest]]
"""Of each branch the blocks that state a policy."""


@dataclass
class Tip:
    """``height`` and ``link`` are of the newest block (of a branch without blocks: of the parent's block at
    the fork). ``sealed`` is the newest sealed block on the branch's own path. ``named`` is the newest block
    of this branch that its parent has named, ``pinned`` the height that its newest snapshot block pins."""

    branch: Branch
    height: int
    link: bytes
    policy: Policy
    built: int
    log: LogWriter
    position: int | None = None
    sealed: Sealed | None = None
    parent: str | None = None
    named: int = -1
    pinned: int = -1
    _links: dict[int, bytes] = field(default_factory=dict)
    _mined: dict[int, tuple[bytes, int]] = field(default_factory=dict)

    @property
    def sealed_height(self) -> int:
        return -1 if self.sealed is None else self.sealed.height

    @property
    def unsealed(self) -> int:
        return self.height - self.sealed_height

    def extend(self, height: int, link: bytes, built: int) -> None:
        """A block was built on top."""
        self.height, self.link, self.built = height, link, built
        self._links[height] = link

    def mined(self, height: int, header: bytes, extranonce: int) -> None:
        """A block's solution is durable; the sealed prefix moves up as far as it is without a hole."""
        self._mined[height] = header, extranonce
        while (following := self.sealed_height + 1) in self._mined:
            solved = self._mined.pop(following)
            previous = ZERO if self.sealed is None else self.sealed.seal
            self.sealed = Sealed(following, seal_of(previous, self._links.pop(following), *solved))


def read_tips(store: ChainStore) -> dict[str, Tip]:
    """The tips of all branches by origin. Raises StoreError where the store cannot be gone on from."""
    tips: dict[str, Tip] = {}
    named: dict[str, int] = {}
    stated: Stated = {}
    for branch in store.branches():
        try:
            tip = _read_tip(store, branch, tips, named, stated)
        except FormatError as error:
            raise damaged(f"branch {branch.origin!r}: {error.message}") from error
        if tip is not None:
            tips[branch.origin] = tip
    for origin, height in named.items():
        if origin in tips:
            tips[origin].named = height
    return tips


def find_tip(tips: dict[str, Tip], origin: str) -> Tip | None:
    """The tip of this branch, in whichever incarnation it is."""
    wanted = base_origin(origin)
    return next((tip for known, tip in tips.items() if base_origin(known) == wanted), None)


def _read_tip(
    store: ChainStore, branch: Branch, tips: dict[str, Tip], named: dict[str, int], stated: Stated
) -> Tip | None:
    newest = store.last_block(branch.id)
    if not len(newest):
        return None
    last = Manifest.parse(newest.manifests[0])
    first = store.blocks(branch.id, 0, 1)
    fork = Manifest.parse(first.manifests[0]).fork
    policy, pinned, parent = None, -1, None
    if fork is not None:
        parent = find_tip(tips, fork.origin)
        if parent is None:
            raise damaged(f"branch {branch.origin!r} forks from {fork.origin!r}, which is not there")
        policy = policy_at(store, tips, fork.origin, fork.height, stated)
    telling = marked(store, branch.id, (b"\npolicy ", b"\nchild ", b"\npin "))
    stated[branch.origin] = [manifest for manifest in telling if manifest.policy]
    for manifest in telling:
        policy = manifest.policy or policy
        pinned = manifest.pin.height if manifest.pin else pinned
        named.update((child.origin, child.height) for child in manifest.children)
    if policy is None:
        raise damaged(f"branch {branch.origin!r} has no policy")
    if (last.origin, last.height) != (branch.origin, int(newest.heights[0])):
        raise damaged(f"the newest block of branch {branch.origin!r} says that it is another one")
    if last.height >> HEIGHT_BITS:
        raise damaged(f"no branch has a block {last.height}")
    log = LogWriter(store, branch.id, last.size)
    if log.frontier.root() != last.root:
        raise damaged(f"the tiles of branch {branch.origin!r} do not make the root of its newest block")
    tip = Tip(
        branch=branch,
        height=last.height,
        link=block_link(newest, 0),
        policy=policy,
        built=last.built,
        log=log,
        position=last.position,
        sealed=last.sealed,
        parent=parent.branch.origin if parent else None,
        pinned=pinned,
    )
    advance(store, tip)
    return tip


def policy_at(
    store: ChainStore, tips: dict[str, Tip], origin: str, height: int, stated: Stated | None = None
) -> Policy:
    """The policy in force at a block of a branch that has been read. What is not in ``stated`` is looked for
    among all of the branch's blocks."""
    tip = find_tip(tips, origin)
    assert tip is not None
    policy = None
    said = (stated or {}).get(tip.branch.origin)
    for manifest in marked(store, tip.branch.id, (b"\npolicy ",)) if said is None else said:
        if manifest.height <= height and manifest.policy:
            policy = manifest.policy
    if policy is not None:
        return policy
    fork = Manifest.parse(store.blocks(tip.branch.id, 0, 1).manifests[0]).fork
    if fork is None or find_tip(tips, fork.origin) is None:
        raise damaged(f"branch {origin!r} has no policy")
    return policy_at(store, tips, fork.origin, fork.height, stated)


def marked(store: ChainStore, branch: int, marks: tuple[bytes, ...]) -> list[Manifest]:
    """The manifests of a branch that carry one of these lines; the others are not even read."""
    found: list[Manifest] = []
    first = 0
    while True:
        blocks = store.marked(branch, marks, first, SCAN)
        found += map(Manifest.parse, blocks.manifests)
        if len(blocks) < SCAN:
            return found
        first = int(blocks.heights[-1]) + 1


def advance(store: ChainStore, tip: Tip) -> None:
    """Read on from the newest sealed block that the tip names: what was mined since. A solution is checked
    here, since it will be named by blocks to come."""
    first = tip.sealed_height + 1
    while True:
        blocks = store.blocks(tip.branch.id, first, SCAN)
        if blocks.heights.tolist() != list(range(first, first + len(blocks))):
            raise damaged(f"of the blocks of {tip.branch.origin!r} from {first} on some are missing")
        for row, height in enumerate(blocks.heights.tolist()):
            tip._links[height] = block_link(blocks, row)
        mined = np.flatnonzero(blocks.headers["time"])
        if len(mined) and not meets_target(blocks.headers[mined]).all():
            raise damaged(f"a block of {tip.branch.origin!r} has a solution that is none")
        for row in mined.tolist():
            header, extranonce = blocks.headers[row], int(blocks.extranonces[row])
            if header["merkle_root"].tobytes() != merkle_root(blocks.manifests[row], extranonce):
                raise damaged(
                    f"the header of block {first + row} of {tip.branch.origin!r} is not of its manifest"
                )
            tip.mined(first + row, header.tobytes(), extranonce)
        if len(blocks) < SCAN:
            return
        first += len(blocks)


def block_link(blocks: Blocks, row: int) -> bytes:
    """The link of one row, recomputed from what the block says."""
    header = blocks.headers[row]
    return link_of(header["prev"].tobytes(), blocks.manifests[row], int(header["bits"]))
