"""What is sealed, for those who wait for it: receipts, and waiting for one.

For an application that calls a transaction finished only once its event is sealed. Readers need no lock and
may run beside a sealer; ``eventchain.verify`` is what checks a chain, and shares nothing of this.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from eventchain.chain.feed import not_as_sealed
from eventchain.chain.prefix import SealedPrefix
from eventchain.chain.proof import leaf_of
from eventchain.chain.view import ChainView, Event, Proof, event_at, events_of
from eventchain.contracts.chain_store import ChainStore
from eventchain.contracts.event_store import EventStore
from eventchain.errors import NotSealedError, StoreError
from eventchain.formats.header import HEADER

POLL = 0.05
"""Seconds between two looks at what is sealed."""


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
        found = [event] if (event := event_at(events.read, wanted)) else []
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
            raise not_as_sealed(event.position, "is not the one that the chain holds there")
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
