"""The snapshots that a branch holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from eventchain.chain.feed import Feed
from eventchain.chain.nodes import damaged
from eventchain.chain.prefix import said_of
from eventchain.chain.tip import SCAN
from eventchain.chain.view import ChainView, events_of
from eventchain.contracts.chain_store import Branch, ChainStore
from eventchain.contracts.event_store import EventStore
from eventchain.errors import FormatError
from eventchain.formats.manifest import Pointer
from eventchain.formats.snapshot import About
from eventchain.snapshots.series import Series, branch_of

_PIN = b"\npin "


class Pin(NamedTuple):
    """A sealed snapshot without its state. number: its leaf in the branch's log; block: the height of its own
    block; parent, height: the block whose state it is; built: when its own block was, unix seconds."""

    number: int
    block: int
    parent: str
    height: int
    built: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A sealed snapshot, held against its leaf."""

    pin: Pin
    about: About
    state: bytes

    @property
    def height(self) -> int:
        return self.pin.height


class SnapshotBranch:
    """The snapshots of one branch, by the index of their leaf, as they were when it was opened."""

    def __init__(self, store: ChainStore, events: EventStore, branch: Branch) -> None:
        self._store, self._feed = store, Feed(store, events, branch)
        self.view = ChainView(store, branch, self._feed.prefix)

    def __len__(self) -> int:
        """How many are sealed."""
        return self._feed.prefix.size

    def pinned(self, index: int) -> Pointer:
        """The block whose state a snapshot is, sealed or not. Raises StoreError where its block pins none."""
        height = self.view.block_of(index)
        pin = self.view.said(height).pin
        if pin is None:
            raise damaged(f"block {height} of {self.view.branch.origin} is no snapshot's")
        return pin

    def newest(self, height: int | None = None) -> int | None:
        """The index of the newest sealed snapshot of a block at this height or below it, of any where none is
        given; None where there is no such."""
        low, high = 0, len(self)
        if height is None or (high and self.pinned(high - 1).height <= height):
            return high - 1 if high else None
        while low < high:
            middle = (low + high) // 2
            if self.pinned(middle).height <= height:
                low = middle + 1
            else:
                high = middle
        return low - 1 if low else None

    def read(self, index: int) -> Stored:
        """One of them, held against its leaf. Raises StoreError where it is missing or was altered."""
        stretch = next(self._feed.stretches(index, index + 1))
        (event,) = events_of(stretch.batch)
        block = self.view.block_of(index)
        said = self.view.said(block)
        try:
            about = About.parse(event.metadata)
        except FormatError as error:
            raise damaged(f"snapshot {index} of {self.view.branch.origin}: {error.message}") from None
        if said.pin is None or event.version != said.pin.height or event.data is None:
            raise damaged(f"event {index} of {self.view.branch.origin} is no snapshot of what its block pins")
        pin = Pin(index, block, said.pin.origin, said.pin.height, said.built)
        return Stored(pin, about, event.data)

    def pins(self) -> Iterator[Pin]:
        """All of them, oldest first, without reading their states."""
        first, index = self.view.first, 0
        while first <= self.view.sealed_height:
            rows = self._store.blocks(self.view.branch.id, first, SCAN)
            for raw in rows.manifests:
                if _PIN in raw and index < len(self):
                    said = said_of(raw)
                    assert said.pin is not None
                    yield Pin(index, said.height, said.pin.origin, said.pin.height, said.built)
                    index += 1
            if len(rows) < SCAN:
                return
            first += len(rows)


def snapshots_of(store: ChainStore, events: EventStore, series: Series) -> list[Pin]:
    """The sealed snapshots of a series, oldest first."""
    branch = branch_of(store, series.origin)
    return list(SnapshotBranch(store, events, branch).pins()) if branch else []
