"""Removing events from the log and mining everything from their block on anew, so that it can be broken off
at any moment and gone on with.

1. Whatever waits is sealed. Then the record is built on the branch of erasures, which forks off at genesis,
   and sealed there (:meth:`Remover.record`). It names the trunk's sealed head. From here on nothing else is
   sealed until the removal is complete, so this head stays the head: :func:`require_complete`.
2. The new blocks are built beside the old ones, as rows of an incarnation of the trunk, linked, and searched
   as one batch (:meth:`Remover.rebuild`, :mod:`.rebuild`). Readers see the old chain, events keep arriving.
3. One transaction of the chain store puts the incarnation in the place of the old part. That becomes the
   archive: blocks, leaf hashes and positions, without salts. The branches of snapshots that hang on it are
   closed, and nothing of them is kept. New snapshots are taken on their next incarnations, by the
   configuration, when sealing goes on; the record's ``rebuilt`` is always empty.
4. The events' rows are deleted in the event store, the chain store's files are scrubbed, and the marks that
   say that this is to be done are taken away (:func:`finish`).

What is still to be done shows in the rows: the newest record is of a removal and its origin the trunk's (1
and 2), an incarnation is unfinished (4), a removed event is still in the event store (4). Who replaced what
is told by the origins, for they count: of an incarnation of the trunk with a higher number than the trunk's
the blocks are being built, with a lower one they are archived.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from eventchain.chain.build import Builder, Clock
from eventchain.chain.nodes import damaged
from eventchain.chain.prefix import trunk_of
from eventchain.chain.rows import ROWS, rows_at
from eventchain.chain.sealing import Progress, Sealer
from eventchain.chain.tip import block_link
from eventchain.contracts.chain_store import Branch, ChainStore, Incarnation
from eventchain.contracts.event_store import EventStore
from eventchain.erasure.erase import Report, complete, record_event
from eventchain.erasure.plan import require_sealed
from eventchain.erasure.rebuild import Part, Rebuilder, head_of, read_part
from eventchain.erasure.records import Record, Records
from eventchain.errors import StoreError
from eventchain.formats.anchor import Anchor
from eventchain.formats.erasure import Erasure, Removal, ranges_of
from eventchain.formats.event import joined
from eventchain.formats.header import work_of
from eventchain.formats.manifest import Replaced, incarnation_of
from eventchain.mining.engine import Engine

MOST = 2**31
"""Removed events that are reckoned with: a forged record must not cost memory."""
RESUME = "`eventchain erase --resume` goes on with it"
Shown = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class RemovalPlan:
    """positions: (n,) of the events to remove, rising; height: of the first block to be replaced; blocks,
    events: how many are replaced, and how many events stay in their place; to_mine: blocks to mine, the
    record's with them; hashes: what that takes on average; closed: snapshots by branch that is closed."""

    origin: str
    positions: NDArray[np.int64]
    height: int
    blocks: int
    events: int
    to_mine: int
    hashes: int
    closed: dict[str, int]


def plan_removal(store: ChainStore, events: EventStore, positions: NDArray[np.int64]) -> RemovalPlan:
    """The plan for the events at rising positions, (n,). Raises StoreError for one that is not sealed or not
    what was sealed, and where another erasure is not complete."""
    require_complete(store)
    with store.snapshot():
        require_sealed(store, events, positions)
        part = read_part(store, positions)
        to_mine = len(part.counts) + (part.policy != part.head) + 1
        return RemovalPlan(
            origin=part.trunk.origin,
            positions=positions,
            height=part.height,
            blocks=len(part.ends),
            events=int(part.kept.sum()),
            to_mine=to_mine,
            hashes=to_mine * work_of(part.head.bits),
            closed=part.snapshots,
        )


def pending(store: ChainStore) -> Record | None:
    """The record of a removal that is not done yet, sealed or not."""
    records = Records(store)
    newest = records[-1] if records else None
    if newest is None or newest.erasure.removal is None:
        return None
    return newest if newest.erasure.origin == trunk_of(store).origin else None


def require_complete(store: ChainStore) -> None:
    """Raises StoreError while a removal is under way: what was sealed now would be lost, or removed events
    sealed again."""
    if not store.branches():
        return
    if pending(store) is not None or any(one.unfinished for one in store.incarnations()):
        raise StoreError("a removal of events is under way", hint=RESUME)


class Remover:
    """Carries out removals. Use inside ``store.writer()``."""

    def __init__(self, store: ChainStore, events: EventStore, engine: Engine, clock: Clock) -> None:
        self._store, self._events, self._engine, self._clock = store, events, engine, clock

    def record(
        self, plan: RemovalPlan, reason: str, actor: str, block_events: int, report: Shown = lambda _: None
    ) -> None:
        """Seal everything that waits, then the record. Raises StoreError as :func:`plan_removal`."""
        plan = plan_removal(self._store, self._events, plan.positions)  # another writer may have been at it
        complete(self._store, self._events)  # what is erased in place, while it can be told from what is not
        sealer = Sealer(self._store, self._engine, self._clock, as_sealed(self._store, self._events))
        with _keeping(sealer, self._engine):
            sealer.resume()
            sealer.seal_backlog(block_events, report)  # the policy may allow fewer
            builder = sealer.builder
            height, link, seal = head_of(builder)
            closed = tuple(sorted(read_part(self._store, plan.positions).snapshots))
            removal = Removal(height, link, seal, (), closed)
            erasure = Erasure(plan.origin, ranges_of(plan.positions), reason, actor, removal)
            with self._store.transaction():
                built = record_event(builder, Records(self._store), erasure)
            sealer.build(built)
            sealer.seal_all(report)

    def rebuild(self, report: Shown = lambda _: None, told: Report = lambda what, count: None) -> bool:
        """Build and mine what takes the place of the old part, and switch over; whether there was anything to
        do. Raises StoreError where the chain is not what the record says."""
        record = pending(self._store)
        if record is None:
            return False
        if not record.sealed:
            sealer = Sealer(self._store, self._engine, self._clock)
            with _keeping(sealer, self._engine):
                sealer.resume()
                sealer.seal_all(report)
        rebuilder = self._rebuilder(record)
        sealer = Sealer(self._store, self._engine, self._clock, builder=rebuilder)
        with _keeping(sealer, self._engine):
            while True:
                if rebuilder.left:
                    told("linking blocks", rebuilder.left)
                    rebuilder.link()
                sealer.resume()
                sealer.seal_all(report)
                if not rebuilder.left:
                    break
        self._switch(rebuilder.part, record)
        return True

    def _rebuilder(self, record: Record) -> Rebuilder:
        erasure, removal = record.erasure, record.erasure.removal
        assert removal is not None
        part = read_part(self._store, erasure.positions)
        if head_of(Builder(self._store, self._clock)) != (removal.height, removal.link, removal.seal):
            raise StoreError(
                f"the chain is not at the head that the record {record.id} names",
                hint="`eventchain verify` names everything that is wrong",
            )
        if tuple(sorted(part.snapshots)) != removal.closed or (~part.kept).sum() != erasure.count:
            raise StoreError(
                f"the chain does not hold what the record {record.id} names",
                hint="`eventchain verify` names everything that is wrong",
            )
        replaces = Replaced(erasure.origin, removal.height, removal.seal, record.id)
        return Rebuilder(self._store, self._clock, part, replaces)

    def _switch(self, part: Part, record: Record) -> None:
        assert record.erasure.removal is not None
        closed = set(record.erasure.removal.closed)
        (new,) = (one for one in self._store.incarnations() if one.origin == part.origin)
        with self._store.transaction():
            self._store.swap(new, part.first)
            for branch in self._store.branches():
                if branch.origin in closed:
                    self._store.close_branch(branch)


@contextmanager
def _keeping(sealer: Sealer, engine: Engine) -> Iterator[None]:
    """Commits what was found when the search is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        engine.close()
        sealer.keep()
        raise


def removed_positions(store: ChainStore) -> NDArray[np.int64]:
    """The positions of all events that were removed from the log, rising. Raises StoreError for records that
    name more than a log could have held."""
    trunk = incarnation_of(trunk_of(store).origin)
    done = [
        record.erasure
        for record in Records(store)
        if record.erasure.removal is not None and incarnation_of(record.erasure.origin) < trunk
    ]
    if (count := sum(erasure.count for erasure in done)) > MOST:
        raise damaged(f"records name {count:,} removed events")
    return np.sort(np.concatenate([np.empty(0, np.int64), *(erasure.positions for erasure in done)]))


def finish(
    store: ChainStore, events: EventStore, report: Report = lambda what, count: None
) -> tuple[int, NDArray[np.int64]]:
    """Destroy what removals left: the events' rows, and what deleted rows of the chain store left in its
    files. Gives how many events were deleted, and the positions of those that the administrator of another
    application's store has to delete, (n,). Inside ``store.writer()``."""
    removed = removed_positions(store)
    pages = [removed[at : at + ROWS] for at in range(0, len(removed), ROWS)]
    found = [rows_at(events.read, page)["position"].to_numpy() for page in pages]
    there = np.concatenate([np.empty(0, np.int64), *found])
    unfinished = [one for one in store.incarnations() if one.unfinished]
    remove = getattr(events, "remove", None)
    if remove is not None and (len(there) or unfinished):
        report("deleting events", len(there))
        remove(removed)
    if unfinished:
        report("scrubbing the chain store", len(removed))
        _scrub(store, unfinished)
    if remove is None:
        return 0, np.asarray(there, np.int64)
    return len(there), np.empty(0, np.int64)


def archives_to_purge(store: ChainStore, anchors: Iterable[Anchor]) -> list[Incarnation]:
    """Of all replaced incarnations. Raises StoreError unless one of the anchors is of the trunk's
    incarnation: of what is destroyed nothing can be proven from there."""
    require_complete(store)
    trunk = trunk_of(store)
    if not any(_is_of(store, trunk, anchor) for anchor in anchors):
        raise StoreError(
            f"no anchor of {trunk.origin} is given, without which nothing would hold the log any more",
            hint="`eventchain verify --anchor FILE` writes one; keep it, and name it with --anchor",
        )
    return [one for one in store.incarnations() if len(store.last_block(one.id))]


def purge(store: ChainStore, anchors: Iterable[Anchor], report: Report = lambda what, count: None) -> int:
    """Destroy the archives of all replaced incarnations; how many there were. Inside
    ``store.writer()``. Raises StoreError as :func:`archives_to_purge`."""
    archives = archives_to_purge(store, anchors)
    with store.transaction():
        for one in archives:
            store.drop(one)
    if archives:
        report("purging archives", len(archives))
        _scrub(store, archives)
    return len(archives)


def _scrub(store: ChainStore, marked: Iterable[Incarnation]) -> None:
    """What their rows held leaves the files; then the marks that it has not yet are taken away."""
    store.scrub(rows=True)
    with store.transaction():
        for one in marked:
            store.put_incarnation(one._replace(unfinished=False))


def _is_of(store: ChainStore, trunk: Branch, anchor: Anchor) -> bool:
    rows = store.blocks(trunk.id, anchor.height, 1)
    there = len(rows) and rows.heights[0] == anchor.height
    return anchor.origin == trunk.origin and bool(there) and block_link(rows, 0) == anchor.link


class WithoutRemoved:
    """An event store of another application as sealing sees it: without the events that were removed from the
    log and that its administrator did not delete yet, which would be sealed again."""

    def __init__(self, events: EventStore, removed: NDArray[np.int64]) -> None:
        self._events, self._removed = events, removed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._events, name)

    def read(self, after: int | None, limit: int) -> Any:
        parts: list[Any] = []
        while limit:
            batch = self._events.read(after, limit)
            stays = ~np.isin(batch["position"].to_numpy(), self._removed)
            parts.append(batch if stays.all() else batch.filter(pa.array(stays)))
            if batch.num_rows < limit:
                break
            limit -= parts[-1].num_rows
            after = batch["position"][-1].as_py()
        return joined(parts)


def as_sealed(store: ChainStore, events: EventStore) -> EventStore:
    """The event store without what was removed from the log."""
    if not store.branches() or not len(removed := removed_positions(store)):
        return events
    return WithoutRemoved(events, removed)
