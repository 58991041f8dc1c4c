"""Building blocks: leaves into logs, manifests and linked headers. Nothing here is mined.

All blocks of a backlog are linked before any is searched, because a link says only what a block *says*; so
one batch of headers keeps any number of devices busy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from eventchain.chain.nodes import LogWriter, damaged
from eventchain.chain.tip import Tip, block_link, find_tip, policy_at, read_tips
from eventchain.contracts.chain_store import Blocks, ChainStore
from eventchain.errors import FormatError, PolicyError, StoreError
from eventchain.formats.event import EVENT_SCHEMA
from eventchain.formats.header import HEADER, ZERO, seal_of, sha256d, unmined
from eventchain.formats.leaf import leaf_hashes, new_salts
from eventchain.formats.log import Hashes
from eventchain.formats.manifest import (
    MAX_MANIFEST,
    Fork,
    Manifest,
    Pointer,
    Replaced,
    Sealed,
    base_origin,
    check_origin,
    incarnation_of,
    next_incarnation,
)
from eventchain.formats.policy import MAX_NUMBER, Policy
from eventchain.formats.salts import Salts
from eventchain.formats.snapshot import TYPE, About, event_id

CLOCK_TOLERANCE = 2 * 3600
"""Seconds that a block's ``built`` may be away from another clock."""
CHILD_LINES = 3 * MAX_MANIFEST // 4
"""Bytes of ``child`` lines in a manifest, at most: the rest is for everything else that it says."""

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Leaves:
    """Events as they enter a log. hashes: (n, 32) uint8; salts: n; positions: (n,) int64."""

    hashes: Hashes
    salts: Salts
    positions: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, rows: slice | NDArray[Any]) -> Leaves:
        return Leaves(self.hashes[rows], self.salts[rows], self.positions[rows])

    @classmethod
    def of(cls, batch: Any, salts: Callable[[int], NDArray[np.uint8]] = new_salts) -> Leaves:
        """Salt and hash an Arrow batch of EVENT_SCHEMA. Raises FormatError for an oversized entry or a
        negative position."""
        fresh = salts(batch.num_rows)
        positions = batch["position"].to_numpy().astype(np.int64)
        if len(positions) and positions.min() < 0:
            raise FormatError(
                f"an event at position {positions.min()}: positions are not negative",
                hint="the event store was edited, or its adapter is wrong",
            )
        return cls(leaf_hashes(batch, fresh), Salts(fresh), positions)

    @classmethod
    def join(cls, parts: Sequence[Leaves]) -> Leaves:
        return cls(
            np.concatenate([part.hashes for part in parts]),
            Salts.join([part.salts for part in parts]),
            np.concatenate([part.positions for part in parts]),
        )


NO_LEAVES = Leaves(np.empty((0, 32), np.uint8), Salts.read(b"", 0), np.empty(0, np.int64))


@dataclass(frozen=True, slots=True)
class Built:
    """Blocks that were added to a branch, not mined yet, and what each says. ``not_before``: each block's
    ``built``, unix seconds."""

    branch: int
    blocks: Blocks
    said: list[Manifest]

    @property
    def not_before(self) -> NDArray[np.int64]:
        return np.array([said.built for said in self.said], np.int64)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a projection, for the branch ``origin``. parent, height: the sealed block whose state it
    is."""

    origin: str
    parent: str
    height: int
    state: bytes
    about: About


class Builder:
    """Appends blocks to the branches of a chain store. One per store, inside ``store.writer()``; each method
    that adds blocks is called inside ``store.transaction()``. Its tips run ahead of a transaction that is
    rolled back: make a new builder after that."""

    def __init__(
        self, store: ChainStore, clock: Clock, salts: Callable[[int], NDArray[np.uint8]] = new_salts
    ):
        self.store = store
        self.tips = read_tips(store)
        self._clock = clock
        self._salts = salts
        self._built = max((tip.built for tip in self.tips.values()), default=0)

    @property
    def trunk(self) -> Tip:
        """Raises StoreError when there is no chain yet."""
        if not self.tips:
            raise StoreError("the chain store holds no chain", hint="`eventchain init` begins one")
        return next(iter(self.tips.values()))

    def now(self) -> int:
        """The ``built`` of a block made now; it never falls over the whole store.

        Raises PolicyError when the newest block was built so far in the future that nothing can follow.
        """
        clock = int(self._clock())
        if self._built - clock > CLOCK_TOLERANCE:
            raise PolicyError(
                f"the newest block was built {self._built - clock} seconds after this host's clock",
                hint="set this host's clock right; blocks may not go back in time",
            )
        self._built = max(self._built, clock)
        return self._built

    # -- the trunk

    def add_genesis(self, origin: str, policy: Policy) -> Built:
        """The first block of all: no events, height 0, the policy."""
        if self.tips or self.store.branches():
            raise PolicyError("this chain store already has a genesis", hint="eventchain status shows it")
        branch = self.store.add_branch(check_origin(origin))
        tip = Tip(branch, -1, ZERO, policy, self.now(), LogWriter(self.store, branch.id, 0))
        self.tips[origin] = tip
        return self._append(tip, NO_LEAVES, [0], policy=policy)

    def extend(
        self, tip: Tip, leaves: Leaves, counts: Sequence[int], late: Sequence[int] | None = None
    ) -> Built:
        """Blocks on top of ``tip`` that take ``counts[i]`` leaves each, one after the other, of which the
        first ``late[i]`` are late.

        Raises PolicyError for a block that the policy in force does not allow.
        """
        return self._append(tip, leaves, counts, late)

    def add_child_lines(self, tip: Tip) -> Built | None:
        """A block without leaves that names the children that grew, or None where none did."""
        return self._append(tip, NO_LEAVES, [0]) if self._grown(tip) else None

    def add_all_child_lines(self) -> list[Built]:
        """Blocks without leaves, so that every child branch lies under the trunk's newest block."""
        deepest_first = sorted(self.tips.values(), key=self._depth, reverse=True)
        return [built for tip in deepest_first if (built := self.add_child_lines(tip)) is not None]

    @property
    def unnamed(self) -> bool:
        """Whether a child branch has grown since its parent's newest block."""
        return any(tip.parent and tip.height > tip.named for tip in self.tips.values())

    def tighten(self, tip: Tip, policy: Policy) -> Built:
        """A block without leaves that states a tighter policy."""
        if not policy.tightens(tip.policy):
            raise PolicyError(
                f"{policy} does not tighten {tip.policy}", hint="a policy can only become stricter"
            )
        return self._append(tip, NO_LEAVES, [0], policy=policy)

    # -- child branches

    def add_child(self, parent: Tip, height: int, origin: str, events: Any, pin: int | None = None) -> Built:
        """A new branch that forks off the parent's sealed block at ``height``; its first block holds these
        events. ``pin``: the parent's height whose state the one event is."""
        if height > parent.sealed_height:
            raise PolicyError(
                f"block {height} of {parent.branch.origin} is not sealed",
                hint="branches fork off sealed blocks",
            )
        if self.branch(origin) is not None:
            raise PolicyError(f"there is a branch {origin} already", hint="choose another name")
        (forked, _, link), seal = self.block_at(parent, height)
        branch = self.store.add_branch(check_origin(origin))
        tip = Tip(
            branch=branch,
            height=height,
            link=link,
            policy=policy_at(self.store, self.tips, parent.branch.origin, height),
            built=parent.built,
            log=LogWriter(self.store, branch.id, 0),
            sealed=Sealed(height, seal),
            parent=parent.branch.origin,
        )
        self.tips[origin] = tip
        return self._add_events(tip, events, pin, fork=Fork(forked, height))

    def extend_child(self, tip: Tip, events: Any, pin: int | None = None) -> Built:
        """A block of a child branch that holds these events, stored with it. Their positions, streams and
        times are given here: those of a child branch's events say nothing else than its blocks."""
        return self._add_events(tip, events, pin)

    def add_snapshot(self, snapshot: Snapshot) -> list[Built]:
        """A snapshot block on its branch, which forks off the pinned block where it is new; before it a block
        of the parent for child lines, where they would become too many for one.

        Raises PolicyError where it may not follow what is there.
        """
        parent, height = self.tips[snapshot.parent], snapshot.height
        pinned, _ = self.block_at(parent, height)
        event = {
            "position": 0,
            "stream": "",
            "version": height,
            "id": event_id(pinned.origin, height),
            "type": TYPE,
            "time": 0,
            "data": snapshot.state,
            "metadata": bytes(snapshot.about),
        }
        batch = pa.RecordBatch.from_pylist([event], schema=EVENT_SCHEMA)
        tip = self.branch(snapshot.origin)
        origin = self._unused(snapshot.origin) if tip is None else tip.branch.origin
        lines = self._make_room(parent, origin)
        if tip is None:
            return [*lines, self.add_child(parent, height, origin, batch, height)]
        if tip.parent != snapshot.parent:
            raise PolicyError(
                f"the branch {snapshot.origin} forks off {tip.parent}, not off {snapshot.parent}",
                hint="give the projection another name",
            )
        return [*lines, self.extend_child(tip, batch, height)]

    def branch(self, origin: str) -> Tip | None:
        """The tip of this branch, in whichever incarnation it is."""
        return find_tip(self.tips, origin)

    def _unused(self, origin: str) -> str:
        """The origin for a new branch: the next incarnation where one of that name was closed."""
        closed = [one.origin for one in self.store.incarnations() if base_origin(one.origin) == origin]
        return next_incarnation(max(closed, key=incarnation_of)) if closed else origin

    def _add_events(self, tip: Tip, events: Any, pin: int | None, fork: Fork | None = None) -> Built:
        pointer = None
        if pin is not None:
            parent = self.tips[tip.parent or ""]
            if pin > parent.sealed_height or pin <= tip.pinned or events.num_rows != 1:
                raise PolicyError(
                    f"a snapshot of block {pin} cannot follow",
                    hint="pin sealed blocks, rising, one event a block",
                )
            pointer, _ = self.block_at(parent, pin)
            tip.pinned = pin
        built = self.now()
        batch = self._entries(tip, events, built)
        self.store.add_events(tip.branch.id, batch)
        leaves = Leaves.of(batch, self._salts)
        return self._append(tip, leaves, [len(leaves)], fork=fork, pin=pointer, built=built)

    def _entries(self, tip: Tip, events: Any, built: int) -> Any:
        """Events as the branch's log takes them: position, stream and time say where and when it did."""
        count, first = events.num_rows, tip.log.size
        columns = {
            "position": pa.array(np.arange(first, first + count), pa.int64()),
            "stream": pa.array([tip.branch.origin] * count, pa.string()),
            "time": pa.array([built * 10**6] * count, pa.int64()),
        }
        for name, column in columns.items():
            at = EVENT_SCHEMA.get_field_index(name)
            events = events.set_column(at, EVENT_SCHEMA.field(at), column)
        return events.cast(EVENT_SCHEMA)

    def _make_room(self, parent: Tip, origin: str) -> list[Built]:
        """A block for the child lines that wait, where one more for ``origin`` might not fit."""
        waiting = [child.branch.origin for child in self._grown(parent)]
        if origin in waiting or sum(map(_child_line, [*waiting, origin])) <= CHILD_LINES:
            return []
        return [self._append(parent, NO_LEAVES, [0])]

    def _depth(self, tip: Tip) -> int:
        """How many branches lie between this one and the root of the tree."""
        return 0 if tip.parent is None else 1 + self._depth(self.tips[tip.parent])

    def block_at(self, tip: Tip, height: int) -> tuple[Pointer, bytes]:
        """A sealed block of this branch and its seal, from the newest sealed block that it names up."""
        block = self.store.blocks(tip.branch.id, height, 1)
        if not len(block) or block.heights[0] != height:
            raise damaged(f"block {height} of {tip.branch.origin} is missing")
        said = Manifest.parse(block.manifests[0])
        sealed = said.sealed
        first, seal = (sealed.height + 1, sealed.seal) if sealed else (0, ZERO)
        blocks = self.store.blocks(tip.branch.id, first, height - first + 1)
        if blocks.heights.tolist() != list(range(first, height + 1)):
            raise damaged(f"of the blocks {first} to {height} of {tip.branch.origin} some are missing")
        link = ZERO
        for row in range(len(blocks)):
            link = block_link(blocks, row)
            seal = seal_of(seal, link, blocks.headers[row].tobytes(), int(blocks.extranonces[row]))
        return Pointer(said.origin, height, link), seal

    # -- every block is made here

    def _grown(self, tip: Tip) -> list[Tip]:
        return [
            child
            for _, child in sorted(self.tips.items())
            if child.parent == tip.branch.origin and child.height > child.named
        ]

    def _append(
        self,
        tip: Tip,
        leaves: Leaves,
        counts: Sequence[int],
        late: Sequence[int] | None = None,
        policy: Policy | None = None,
        fork: Fork | None = None,
        pin: Pointer | None = None,
        built: int | None = None,
        replaces: Replaced | None = None,
    ) -> Built:
        late = late or [0] * len(counts)
        in_force = policy or tip.policy
        self._check(tip, in_force, counts, late)  # all are allowed, or nothing changes
        tip.policy = in_force
        sizes = list(accumulate(counts, initial=tip.log.size))
        last = leaves.positions[np.subtract(sizes[1:], sizes[0] + 1)].tolist() if len(leaves) else []
        own_roots, log_roots = tip.log.append(leaves.hashes, leaves.salts, leaves.positions, counts)
        built, grown = self.now() if built is None else built, self._grown(tip)
        children = tuple(Pointer(child.branch.origin, child.height, child.link) for child in grown)
        for child in grown:
            child.named = child.height
        everything, manifests, headers = [], [], []
        first = tip.height + 1
        for number, count in enumerate(counts):
            if count:
                tip.position = max(last[number], -1 if tip.position is None else tip.position)
            said = Manifest(
                origin=tip.branch.origin,
                size=sizes[number + 1],
                root=log_roots[number],
                height=first + number,
                leaves=own_roots[number],
                built=built,
                position=tip.position,
                late=late[number],
                sealed=tip.sealed,
                fork=fork,
                pin=pin,
                children=children,
                policy=policy,
                replaces=replaces,
            )
            manifest = bytes(said)
            header = unmined(tip.link, manifest, tip.policy.bits)
            everything.append(said)
            manifests.append(manifest)
            headers.append(header)
            tip.extend(first + number, sha256d(header), built)  # the link is the unmined header's hash
            fork = pin = policy = replaces = None
            children = ()
        added = Blocks(
            np.arange(first, first + len(counts)),
            np.frombuffer(b"".join(headers), HEADER),
            np.zeros(len(counts), np.int64),
            manifests,
        )
        self.store.add_blocks(tip.branch.id, added)
        return Built(tip.branch.id, added, everything)

    def _check(self, tip: Tip, policy: Policy, counts: Sequence[int], late: Sequence[int]) -> None:
        if (most := max(counts)) > policy.events:
            raise PolicyError(f"a block of {most} events; the policy allows {policy.events}")
        if (most := max(late)) > policy.late:
            raise PolicyError(f"a block with {most} late events; the policy allows {policy.late}")
        height = tip.height + len(counts)
        if height - tip.sealed_height > policy.lag:
            raise PolicyError(
                f"block {height} would be {height - tip.sealed_height} ahead of the newest sealed block; the "
                f"policy allows {policy.lag}",
                hint="mine before building more",
            )

    def room(self, tip: Tip) -> int:
        """How many blocks the policy's lag still allows on top of ``tip``."""
        return tip.policy.lag - tip.unsealed


def _child_line(origin: str) -> int:
    """The length of a ``child`` line, at most: "child ", the origin, a height, 44 characters of base64."""
    return len(f"child {origin} {MAX_NUMBER} \n") + 44
