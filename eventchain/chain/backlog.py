"""The backlog: what the event store holds and the log does not, read ahead and cut into blocks of leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from eventchain.chain.build import NO_LEAVES, Leaves
from eventchain.chain.nodes import LogReader
from eventchain.chain.tip import Tip
from eventchain.contracts.chain_store import ChainStore
from eventchain.contracts.event_store import EventStore

READ_ROWS = 32_768
PAGE = 65_536
"""Positions read at a time."""
READ_BYTES = 64 * 2**20
"""What is read at a time is kept near this size, whatever the size of the events."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Blocks to build, of leaves that lie end to end: block i has ``counts[i]`` of them, of which the first
    ``late[i]`` are late."""

    leaves: Leaves
    counts: list[int]
    late: list[int]

    def split(self, count: int) -> tuple[Chunk, Chunk | None]:
        """The first ``count`` blocks, and the rest if there is one."""
        if count >= len(self.counts):
            return self, None
        end = sum(self.counts[:count])
        rest = Chunk(self.leaves[end:], self.counts[count:], self.late[count:])
        return Chunk(self.leaves[:end], self.counts[:count], self.late[:count]), rest


def chunks(store: ChainStore, tip: Tip, events: EventStore, block_events: int) -> Iterator[Chunk]:
    """Everything that the event store holds now above the tip's position, and below it what is late."""
    per_block = min(block_events, tip.policy.events)
    late = late_leaves(store, tip, events) if tip.policy.late else NO_LEAVES
    held = NO_LEAVES
    for leaves in _leaves(events, tip.position):
        held = Leaves.join([held, leaves]) if len(held) else leaves
        chunk, late, held = cut(held, late, per_block, tip.policy.late, whole=True)
        if chunk.counts:
            yield chunk
    chunk, _, _ = cut(held, late, per_block, tip.policy.late, whole=False)
    if chunk.counts:
        yield chunk


def _leaves(events: EventStore, after: int | None) -> Iterator[Leaves]:
    head = events.head()
    rows = READ_ROWS
    while head is not None and (after is None or after < head):
        batch = events.read(after, rows)
        if not batch.num_rows:
            return
        after = batch["position"][-1].as_py()
        safe = int(np.searchsorted(batch["position"].to_numpy(), head, side="right"))
        if safe:
            yield Leaves.of(batch.slice(0, safe))
        rows = max(16, min(READ_ROWS, READ_BYTES * batch.num_rows // max(1, batch.nbytes)))


def cut(
    held: Leaves, late: Leaves, per_block: int, per_late: int, *, whole: bool
) -> tuple[Chunk, Leaves, Leaves]:
    """Blocks of ``per_block`` leaves, late ones first in each; what is left of both. ``whole``: keep a
    last block that is not full for later."""
    parts = [NO_LEAVES]
    counts: list[int] = []
    lates: list[int] = []
    while len(late):
        first = min(len(late), per_late, per_block)
        if whole and first + len(held) < per_block:
            break
        parts += [late[:first], held[: per_block - first]]
        counts.append(len(parts[-2]) + len(parts[-1]))
        lates.append(first)
        held, late = held[per_block - first :], late[first:]
    if not len(late):
        full, rest = divmod(len(held), per_block)
        more = [per_block] * full + ([rest] if rest and not whole else [])
        end = sum(more)
        parts.append(held[:end])
        counts += more
        lates += [0] * len(more)
        held = held[end:]
    return Chunk(Leaves.join(parts), counts, lates), late, held


def late_leaves(store: ChainStore, tip: Tip, events: EventStore) -> Leaves:
    """Events that became visible below the position covered so far, ascending: a pass over the store, which
    only chains pay whose policy allows late events."""
    if tip.position is None:
        return NO_LEAVES
    log, size = LogReader(store, tip.branch.id), tip.log.size
    pages = [log.positions(first, min(first + PAGE, size)) for first in range(0, size, PAGE)]
    known = np.sort(np.concatenate(pages))
    found: list[Leaves] = []
    after: int | None = None
    while True:
        batch = events.read(after, READ_ROWS)
        positions: Any = batch["position"].to_numpy()
        below = positions <= tip.position
        strange = below & (known[np.minimum(np.searchsorted(known, positions), len(known) - 1)] != positions)
        if strange.any():
            found.append(Leaves.of(batch.filter(pa.array(strange))))
        if not len(positions) or not below.all():
            return Leaves.join(found) if found else NO_LEAVES
        after = int(positions[-1])
