"""The sealed events of a branch, in the order of its log, each held against its leaf.

For those who act on events: projections, process managers, snapshots. What comes out is what was sealed.
Readers need no lock and may run beside a sealer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from eventchain.chain.nodes import LogReader
from eventchain.chain.prefix import SealedPrefix, trunk_of
from eventchain.contracts.chain_store import TILE, Branch, ChainStore
from eventchain.contracts.event_store import EventStore
from eventchain.errors import EventChainError, StoreError
from eventchain.formats.leaf import leaf_hashes

BATCH = 64 * TILE
"""Leaves that are taken from the log at a time."""

Read = Callable[[int | None, int], Any]
"""An event store's ``read``."""


class Stretch(NamedTuple):
    """Events that lie end to end in the log. first: the leaf of the first one; batch: an Arrow record batch
    of EVENT_SCHEMA, with rising positions."""

    first: int
    batch: Any


class Feed:
    """The sealed events of a branch, the trunk where none is given. ``prefix``: how far it is sealed, as of
    the last ``prefix.advance()``."""

    def __init__(self, store: ChainStore, events: EventStore, branch: Branch | None = None) -> None:
        trunk = trunk_of(store)
        self.branch = branch or trunk
        self.prefix = SealedPrefix(store, self.branch)
        self._store = store
        self._read: Read = events.read if self.branch == trunk else partial(store.events, self.branch.id)

    def stretches(self, first: int, end: int | None = None) -> Iterator[Stretch]:
        """The events of leaves ``first`` up to ``end``, to what is sealed where no end is given. Raises
        StoreError at an event that is missing or was altered."""
        end = self.prefix.size if end is None else min(end, self.prefix.size)
        while first < end:
            until = min(first + BATCH - first % TILE, end)
            log = LogReader(self._store, self.branch.id)  # a new one: the log's last tile grows
            yield from _checked(log, self._read, first, until)
            first = until

    def after(self, position: int) -> int:
        """The leaf after that of a position; where the log has none there, the first leaf above it."""
        size, newest = self.prefix.size, self.prefix.position
        if newest is None or position > newest:
            return size
        log = LogReader(self._store, self.branch.id)
        index = log.find(position, size)
        if index is not None:
            return index + 1
        for start in range(0, size, BATCH):  # not by halves: late leaves are out of order
            hits = np.flatnonzero(log.positions(start, min(start + BATCH, size)) > position)
            if len(hits):
                return start + int(hits[0])
        return size


def sealed_events(store: ChainStore, events: EventStore, after: int | None = None) -> Iterator[Any]:
    """Arrow batches of EVENT_SCHEMA of the trunk's sealed events that follow position ``after`` in the log,
    up to what is sealed now. They come in the log's order: ascending, but for late ones. Raises StoreError at
    one that is missing or was altered."""
    feed = Feed(store, events)
    for stretch in feed.stretches(0 if after is None else feed.after(after)):
        yield stretch.batch


def _checked(log: LogReader, read: Read, first: int, end: int) -> Iterator[Stretch]:
    """The events of leaves ``first`` to ``end``."""
    positions = log.positions(first, end)
    cuts = np.flatnonzero(positions[1:] <= positions[:-1]) + 1
    for start, run in zip(np.concatenate([[0], cuts]), np.split(positions, cuts), strict=True):
        done = 0
        while done < len(run):
            batch = _rows_at(read, run[done:])
            count = batch.num_rows
            at = first + int(start) + done
            salts, leaves = log.salts(at, at + count), log.leaves(at, at + count)
            wrong = np.flatnonzero((leaf_hashes(batch, salts) != leaves).any(axis=1))
            if len(wrong):
                raise not_as_sealed(int(run[done + wrong[0]]), "is not what was sealed")
            yield Stretch(at, batch)
            done += count


def _rows_at(read: Read, positions: NDArray[np.int64]) -> Any:
    """The events at the first of these rising positions, at least one."""
    batch = read(int(positions[0]) - 1 if positions[0] else None, len(positions))
    found = batch["position"].to_numpy()
    wanted = np.isin(found, positions)
    count = int(wanted.sum())
    missing = np.flatnonzero(found[wanted] != positions[:count])
    if len(missing) or not count:
        raise not_as_sealed(int(positions[missing[0] if len(missing) else 0]), "is missing")
    return batch if wanted.all() else batch.filter(pa.array(wanted))


def not_as_sealed(position: int, what: str) -> EventChainError:
    """The error for an event that is not as it was sealed."""
    return StoreError(
        f"the event at position {position} {what}", hint="`eventchain verify` names everything that is wrong"
    )
