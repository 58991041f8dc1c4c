"""What is sealed, for those who wait for it: receipts, waiting for one, and a feed of sealed events.

For an application that calls a transaction finished only once its event is sealed. Readers need no lock and
may run beside a sealer; ``eventchain.verify`` is what checks a chain, and shares nothing of this.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from eventchain.chain.nodes import LogReader
from eventchain.chain.prefix import SealedPrefix
from eventchain.chain.proof import leaf_of
from eventchain.chain.rows import rows_at, without_payload
from eventchain.chain.view import ChainView, Event, Proof, event_at, events_of
from eventchain.contracts.chain_store import TILE, ChainStore
from eventchain.contracts.event_store import EventStore
from eventchain.errors import EventChainError, NotSealedError, StoreError
from eventchain.formats.header import HEADER

POLL = 0.05
"""Seconds between two looks at what is sealed."""
BATCH = 64 * TILE
"""Leaves that are taken from the log at a time."""


# -- receipts -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Receipt:
    """What is known of an event. block: height of the block that holds it, None where none does yet; time:
    when that block was mined, unix seconds; confirmations: sealed blocks on top of it; proof: that the newest
    sealed block commits to it. ``time`` and ``proof`` are None, and ``confirmations`` 0, until it is sealed.
    Of an event that was ``erased`` everything but data and metadata is known.
    """

    event: Event
    sealed: bool
    block: int | None = None
    time: int | None = None
    confirmations: int = 0
    proof: Proof | None = None
    erased: bool = False


def find_event(events: EventStore, wanted: str | int) -> Event:
    """The event with this id or at this position. Raises StoreError where there is none, or several."""
    if isinstance(wanted, int):
        found = [event] if (event := event_at(events, wanted)) else []
    else:
        found = events_of(events.find(wanted))
    if len(found) == 1:
        return found[0]
    what = f"event at position {wanted}" if isinstance(wanted, int) else f"event {wanted}"
    if not found:
        raise StoreError(f"there is no {what}", hint="was it appended, and committed?")
    raise StoreError(
        f"there are {len(found)} events {wanted}", hint="`eventchain verify` says which is wrong"
    )


def receipt_of(store: ChainStore, event: Event) -> Receipt:
    """The event's receipt just now. Raises StoreError where the chain store is damaged, and where it holds
    another event at this position: this one was altered, or took the place of one that was deleted."""
    with store.snapshot():
        view = ChainView(store)
        index = view.index_of(event.position)
        if index is None:
            return Receipt(event, sealed=False)
        event, hidden = view.hidden(event, index)
        if leaf_of(event, hidden) != view.log.leaf(index):
            raise _not_as_sealed(event.position, "is not the one that the chain holds there")
        height, erased = view.block_of(index), hidden.salt is None
        if height > view.sealed_height:
            return Receipt(event, sealed=False, block=height, erased=erased)
        block = view.block(height)
        assert block is not None
        mined = int(np.frombuffer(block.header, HEADER)["time"][0])
        above = view.sealed_height - height
        return Receipt(event, True, height, mined, above, view.prove(event), erased)


class Waiting:
    """Waits until an event is sealed, with so many sealed blocks on top. It does not sleep itself, so that a
    thread and a coroutine can wait by it alike.

    Raises StoreError where there is no such event.
    """

    def __init__(
        self,
        store: ChainStore,
        events: EventStore,
        wanted: str | int,
        confirmations: int = 0,
        timeout: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._clock = store, clock
        self._event = find_event(events, wanted)
        self._confirmations, self._timeout = confirmations, timeout
        self._deadline = None if timeout is None else clock() + timeout
        self._prefix = SealedPrefix(store)
        self._news = True

    def look(self) -> Receipt | float:
        """The receipt, or for how many seconds to sleep before the next look. Raises NotSealedError when the
        time is over."""
        if self._news or self._prefix.advance():
            receipt = receipt_of(self._store, self._event)
            if receipt.sealed and receipt.confirmations >= self._confirmations:
                return receipt
            self._news = False
        if self._deadline is None:
            return POLL
        left = self._deadline - self._clock()
        if left > 0:
            return min(POLL, left)
        on_top = f" with {self._confirmations} blocks on top" if self._confirmations else ""
        raise NotSealedError(
            f"the event at position {self._event.position} is not sealed{on_top} after {self._timeout:g} s",
            hint="`eventchain status` says how far sealing is; is anything sealing?",
        )


# -- the events in it ---------------------------------------------------------------------------------


def sealed_events(store: ChainStore, events: EventStore, after: int | None = None) -> Iterator[Any]:
    """Arrow batches of EVENT_SCHEMA of the sealed events that follow position ``after`` in the log, up to
    what is sealed now. They come in the log's order: ascending, but for late ones.

    Each is held against its leaf: what comes out is what was sealed. One that was erased comes without data
    and metadata, whatever its row still holds; where an erasure took the whole row, it is passed over. Raises
    StoreError at one that is missing or was altered.
    """
    prefix = SealedPrefix(store)
    first = 0 if after is None else _following(store, prefix, after)
    while first < prefix.size:
        end = min(first + BATCH - first % TILE, prefix.size)
        yield from _checked(LogReader(store, prefix.trunk.id), events, first, end)
        first = end


def _following(store: ChainStore, prefix: SealedPrefix, position: int) -> int:
    """The leaf after that of a position; where the log has none there, the first leaf above it."""
    if prefix.position is None or position > prefix.position:
        return prefix.size
    log = LogReader(store, prefix.trunk.id)
    index = log.find(position, prefix.size)
    if index is not None:
        return index + 1
    for start in range(0, prefix.size, BATCH):  # not by halves: late leaves are out of order
        hits = np.flatnonzero(log.positions(start, min(start + BATCH, prefix.size)) > position)
        if len(hits):
            return start + int(hits[0])
    return prefix.size


def _checked(log: LogReader, events: EventStore, first: int, end: int) -> Iterator[Any]:
    """The events of leaves ``first`` to ``end``, in runs of rising positions."""
    positions = log.positions(first, end)
    cuts = np.flatnonzero(positions[1:] <= positions[:-1]) + 1
    for start, run in zip(np.concatenate([[0], cuts]), np.split(positions, cuts), strict=True):
        at = first + int(start)
        salts, leaves = log.salts(at, at + len(run)), log.leaves(at, at + len(run))
        batch = rows_at(events, run)
        there = np.isin(run, batch["position"].to_numpy())
        missing = np.flatnonzero(~there & ~salts.erased)
        if len(missing):
            raise _not_as_sealed(int(run[missing[0]]), "is missing")
        if not there.all():  # erased, row and all
            run, salts, leaves = run[there], salts[np.flatnonzero(there)], leaves[there]
        wrong = np.flatnonzero((salts.leaves(batch) != leaves).any(axis=1))
        if len(wrong):
            raise _not_as_sealed(int(run[wrong[0]]), "is not what was sealed")
        if batch.num_rows:
            yield without_payload(batch, salts.erased)


def _not_as_sealed(position: int, what: str) -> EventChainError:
    return StoreError(
        f"the event at position {position} {what}", hint="`eventchain verify` names everything that is wrong"
    )
