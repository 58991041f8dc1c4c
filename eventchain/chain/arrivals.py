"""Events as they arrive: each is read once and hashed, and waits for its block."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np

from eventchain.chain.backlog import READ_ROWS, Chunk, cut, late_leaves
from eventchain.chain.build import NO_LEAVES, Leaves
from eventchain.chain.tip import Tip
from eventchain.contracts.chain_store import ChainStore
from eventchain.contracts.event_store import EventStore

LATE_SECONDS, LATE_SHARE = 60.0, 20
"""A look for late events is a pass over the store: one in so many seconds, and for at most one part in so
many of the time."""


class Arrivals:
    """What an event store holds above the position of a branch's tip, and below it what is late where the
    policy allows that. ``since``: when the oldest event that waits was noticed, in seconds of ``clock``."""

    def __init__(
        self,
        store: ChainStore,
        tip: Tip,
        events: EventStore,
        block_events: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._tip, self._events, self._clock = store, tip, events, clock
        self._per_block = min(block_events, tip.policy.events)
        self._after = tip.position
        self._held = self._late = NO_LEAVES
        self._late_due = -math.inf
        self.since = math.inf

    def __len__(self) -> int:
        return len(self._held) + len(self._late)

    def look(self) -> bool:
        """Take on what has arrived since; whether there was anything."""
        before = len(self)
        if self._tip.policy.late and not len(self._late) and self._clock() >= self._late_due:
            began = self._clock()
            self._late = late_leaves(self._store, self._tip, self._events)
            ended = self._clock()
            self._late_due = ended + max(LATE_SECONDS, LATE_SHARE * (ended - began))
        head = self._events.head()
        if head is not None and (self._after is None or self._after < head):
            batch = self._events.read(self._after, READ_ROWS)
            safe = int(np.searchsorted(batch["position"].to_numpy(), head, side="right"))
            if safe:
                self._after = batch["position"][safe - 1].as_py()
                self._held = Leaves.join([self._held, Leaves.of(batch.slice(0, safe))])
        if len(self) and not before:
            self.since = self._clock()
        return len(self) > before

    def full(self) -> Chunk | None:
        """Blocks that are full, if there are any."""
        return self._take(whole=True)

    def rest(self) -> Chunk | None:
        """Everything that waits."""
        return self._take(whole=False)

    def _take(self, *, whole: bool) -> Chunk | None:
        chunk, self._late, self._held = cut(
            self._held, self._late, self._per_block, self._tip.policy.late, whole=whole
        )
        if not chunk.counts:
            return None
        self.since = self._clock() if len(self) else math.inf
        return chunk
