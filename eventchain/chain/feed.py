"""The sealed events of a branch, in the order of its log, each held against its leaf.

For those who act on events: projections, process managers, snapshots. What comes out is what was sealed. An
event that was erased comes without data and metadata, whatever its row still holds; where an erasure took the
whole row, it is passed over. What is encrypted comes decrypted where the event store was opened with keys.
Readers need no lock and may run beside a sealer.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from eventchain.chain.nodes import LogReader
from eventchain.chain.prefix import SealedPrefix, trunk_of
from eventchain.chain.rows import Read, readable, rows_at, without_payload
from eventchain.contracts.chain_store import TILE, Branch, ChainStore
from eventchain.contracts.event_store import EventStore
from eventchain.errors import EventChainError, StoreError

BATCH, BATCH_BYTES = 64 * TILE, 64 * 2**20
"""Leaves that are taken from the log at a time, and what their events are kept near, whatever their size."""
STATES = 16
"""Leaves of a child branch that are taken first: each may be a state of any size."""


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
        of_trunk = self.branch == trunk
        self._events = events
        self._read: Read = events.read if of_trunk else partial(store.events, self.branch.id)
        self._named = "" if of_trunk else self.branch.origin
        self._leaves = BATCH if of_trunk else STATES

    def stretches(self, first: int, end: int | None = None) -> Iterator[Stretch]:
        """The events of leaves ``first`` up to ``end``, to what is sealed where no end is given. Raises
        StoreError at an event that is missing or was altered."""
        end = self.prefix.size if end is None else min(end, self.prefix.size)
        leaves = self._leaves
        while first < end:
            until = min(first + leaves - (first % TILE if leaves >= TILE else 0), end)
            log = LogReader(self._store, self.branch.id)  # a new one: the log's last tile grows
            size = 0
            for at, batch in _checked(log, self._read, first, until, self._named):
                size += batch.nbytes
                yield Stretch(at, readable(self._events, batch))
            leaves = max(1, min(BATCH, BATCH_BYTES * (until - first) // max(1, size)))
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


def _checked(log: LogReader, read: Read, first: int, end: int, origin: str) -> Iterator[Stretch]:
    """The events of leaves ``first`` to ``end``. origin: of the branch, for errors."""
    positions, all_salts = log.positions_and_salts(first, end)
    all_leaves = log.leaves(first, end)
    cuts = np.flatnonzero(positions[1:] <= positions[:-1]) + 1
    for start, run in zip([0, *cuts.tolist()], np.split(positions, cuts), strict=True):
        at = first + start
        salts, leaves = all_salts[start : start + len(run)], all_leaves[start : start + len(run)]
        batch = rows_at(read, run)
        there = np.isin(run, batch["position"].to_numpy())
        missing = np.flatnonzero(~there & ~salts.erased)
        if len(missing):
            raise not_as_sealed(int(run[missing[0]]), "is missing", origin)
        rows = np.flatnonzero(there)
        salts = salts[rows]
        wrong = np.flatnonzero((salts.leaves(batch) != leaves[rows]).any(axis=1))
        if len(wrong):
            raise not_as_sealed(int(run[rows[wrong[0]]]), "is not what was sealed", origin)
        batch = without_payload(batch, salts.erased)
        for part in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) != 1) + 1):
            if len(part):  # apart where an erasure took whole rows
                yield Stretch(at + int(rows[part[0]]), batch.slice(int(part[0]), len(part)))


def not_as_sealed(position: int, what: str, origin: str = "") -> EventChainError:
    """The error for an event that is not as it was sealed; of the trunk where no branch is named."""
    return StoreError(
        f"the event at position {position}{' of ' if origin else ''}{origin} {what}",
        hint="`eventchain verify` names everything that is wrong",
    )
