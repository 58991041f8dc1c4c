"""Looking things up in a chain: blocks, where an event is, and proofs that it is there.

For people and programs that ask; ``eventchain.verify`` is what checks a chain, and shares nothing of this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from eventchain.chain.nodes import LogReader, damaged
from eventchain.chain.prefix import SealedPrefix, said_of
from eventchain.chain.tip import SCAN, Tip, block_link, read_tips
from eventchain.contracts.chain_store import Blocks, Branch, ChainStore
from eventchain.contracts.event_store import EventStore
from eventchain.errors import EventChainError
from eventchain.formats.header import ZERO, seal_of
from eventchain.formats.log import inclusion_proof
from eventchain.formats.manifest import Manifest


class Event(NamedTuple):
    """One event. Text as its bytes: an edited store may hold what is no UTF-8."""

    position: int
    version: int
    time: int
    stream: bytes
    id: bytes
    type: bytes
    data: bytes | None
    metadata: bytes | None


@dataclass(frozen=True, slots=True)
class BlockView:
    """A block as stored. header: 80 bytes; ``first`` to ``said.size`` are its leaves in the log; ``seal``
    and ``previous_seal`` are None above the sealed prefix."""

    said: Manifest
    manifest: bytes
    header: bytes
    extranonce: int
    link: bytes
    mined: bool
    first: int
    seal: bytes | None = None
    previous_seal: bytes | None = None


class Hidden(NamedTuple):
    """What a leaf's commitment is made with: the salt, or itself where the event was erased."""

    salt: bytes | None
    commitment: bytes | None = None


@dataclass(frozen=True, slots=True)
class Proof:
    """All that an outsider needs to see that a sealed block commits to an event; of one that was erased, to
    everything but its data and metadata. leaf: the stored hash; path: the audit path, nearest hash first
    (RFC 6962), to the root that ``block`` states."""

    event: Event
    hidden: Hidden
    leaf: bytes
    index: int
    path: tuple[bytes, ...]
    block: BlockView


class ChainView:
    """A branch of a chain store, the trunk where none is given, as it was when the view was opened. ``first``
    and ``height`` are of its oldest and its newest block.

    Raises StoreError where there is no chain, or one that cannot be gone on from.
    """

    def __init__(self, store: ChainStore, branch: Branch | None = None) -> None:
        self._store = store
        prefix = SealedPrefix(store, branch)
        self.sealed_height, self.branch = prefix.height, prefix.branch
        newest = store.last_block(self.branch.id)
        if not len(newest):
            raise damaged(f"the branch {self.branch.origin} has no block")
        said = said_of(newest.manifests[0])
        self.first = said_of(store.blocks(self.branch.id, 0, 1).manifests[0]).height
        self.height, self.log_size, self.position = said.height, said.size, said.position
        self.log = LogReader(store, self.branch.id)

    @cached_property
    def tips(self) -> dict[str, Tip]:
        """The tips of all branches by origin, the trunk's first: a pass over all blocks."""
        return read_tips(self._store)

    @property
    def trunk(self) -> Tip:
        return next(iter(self.tips.values()))

    # -- blocks

    def blocks(self, first: int, end: int) -> Iterator[Blocks]:
        """Rows from height ``first`` up to ``end``, some at a time."""
        while first < end:
            rows = self._store.blocks(self.branch.id, first, min(SCAN, end - first))
            if not len(rows):
                return
            yield rows
            first = int(rows.heights[-1]) + 1

    def block(self, height: int) -> BlockView | None:
        """The block at this height, None when there is none."""
        if not self.first <= height <= self.height:
            return None
        rows = self._row(height)
        said = said_of(rows.manifests[0])
        seals = self._seals(height, said) if height <= self.sealed_height else (None, None)
        return BlockView(
            said=said,
            manifest=rows.manifests[0],
            header=rows.headers[0].tobytes(),
            extranonce=int(rows.extranonces[0]),
            link=block_link(rows, 0),
            mined=bool(rows.headers["time"][0]),
            first=self.size(height - 1),
            previous_seal=seals[0],
            seal=seals[1],
        )

    def said(self, height: int) -> Manifest:
        """What the block at this height says."""
        return said_of(self._row(height).manifests[0])

    def size(self, height: int) -> int:
        """Leaves in the log up to and with the block at ``height``; 0 below the first."""
        return self.said(height).size if height >= self.first else 0

    def block_of(self, index: int) -> int:
        """The height of the block that added leaf ``index``."""
        return self._first(lambda height: self.size(height) > index)

    def built_by(self, time: float) -> int:
        """The height of the newest block that was built at a time (unix seconds) or before it; one below the
        first where all were built later."""
        return self._first(lambda height: self.said(height).built > time) - 1

    def _first(self, holds: Callable[[int], bool]) -> int:
        """The first height for which this holds, when it does for all above; else one above the newest."""
        low, high = self.first, self.height + 1
        while low < high:
            middle = (low + high) // 2
            if holds(middle):
                high = middle
            else:
                low = middle + 1
        return low

    def _row(self, height: int) -> Blocks:
        rows = self._store.blocks(self.branch.id, height, 1)
        if not len(rows) or rows.heights[0] != height:
            raise damaged(f"block {height} is missing")
        return rows

    def _seals(self, height: int, said: Manifest) -> tuple[bytes, bytes]:
        """The seal before a sealed block's and its own, from the newest seal that it names up."""
        first, before = (said.sealed.height + 1, said.sealed.seal) if said.sealed else (0, ZERO)
        seal = before
        for rows in self.blocks(first, height + 1):
            for row in range(len(rows)):
                before = seal
                link, header = block_link(rows, row), rows.headers[row].tobytes()
                seal = seal_of(before, link, header, int(rows.extranonces[row]))
        return before, seal

    # -- events

    def index_of(self, position: int) -> int | None:
        """The leaf of the event at this position, None when the log has none."""
        if self.position is None or position > self.position:
            return None  # without looking for a late one through the whole log
        return self.log.find(position, self.log_size)

    def prove(self, event: Event) -> Proof:
        """Proof that the newest sealed block commits to the event. Raises EventChainError when no sealed
        block does; it does not check that the event is still what was sealed (:func:`check_proof` does).
        """
        index = self.index_of(event.position)
        newest = self.block(self.sealed_height)
        if index is None or newest is None or index >= newest.said.size:
            what = "is not in the chain yet" if index is None else "is in a block that is not sealed yet"
            raise EventChainError(f"the event {what}", hint="`eventchain mine` seals it")
        path = inclusion_proof(index, newest.said.size, self.log.node)
        event, hidden = self.hidden(event, index)
        return Proof(event, hidden, self.log.leaf(index), index, tuple(path), newest)

    def hidden(self, event: Event, index: int) -> tuple[Event, Hidden]:
        """What hides the payload of the leaf at ``index``, and its event: of one that was erased without data
        and metadata, whatever its row still holds."""
        salts = self.log.salts(index, index + 1)
        if salts.commitments is not None and salts.erased[0]:
            kept = salts.commitments[0].tobytes()
            return event._replace(data=None, metadata=None), Hidden(None, kept)
        return event, Hidden(salts.salts[0].tobytes())


def events_of(batch: Any) -> list[Event]:
    """The rows of a small Arrow batch of EVENT_SCHEMA."""
    return [
        Event(
            *(batch[name][row].as_py() for name in ("position", "version", "time")),
            *(_bytes(batch[name][row]) or b"" for name in ("stream", "id", "type")),
            *(_bytes(batch[name][row]) for name in ("data", "metadata")),
        )
        for row in range(batch.num_rows)
    ]


def event_at(read: Callable[[int | None, int], Any], position: int) -> Event | None:
    """The event at a position, by an event store's ``read``."""
    if not 0 <= position < 2**63:
        return None
    batch = read(position - 1 if position else None, 1)
    found = events_of(batch)
    return found[0] if found and found[0].position == position else None


def count_after(events: EventStore, position: int | None) -> int:
    """How many events a store holds above a position, as far as they are safe to seal."""
    head = events.head()
    count = 0
    while head is not None and (position is None or position < head):
        positions = events.read(position, 65_536)["position"].to_numpy()
        if not len(positions):
            break
        count += int(np.searchsorted(positions, head, side="right"))
        position = int(positions[-1])
    return count


def _bytes(value: Any) -> bytes | None:
    """An Arrow string or binary scalar's bytes."""
    return value.as_buffer().to_pybytes() if value.is_valid else None
