"""What an erasure would touch, before anything is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eventchain.chain.nodes import LogReader
from eventchain.chain.prefix import SealedPrefix, said_of
from eventchain.chain.rows import all_events, readable
from eventchain.chain.sealed import find_event
from eventchain.chain.tip import SCAN
from eventchain.contracts.chain_store import ChainStore
from eventchain.contracts.event_store import EventStore
from eventchain.erasure.records import Records
from eventchain.erasure.stretches import Places, events_at, places_of
from eventchain.errors import StoreError
from eventchain.formats.header import work_of

if TYPE_CHECKING:
    from eventchain.projections.filter import Filter

Matches = Callable[[Any], NDArray[np.bool_]]
"""Which rows of an Arrow batch of EVENT_SCHEMA are meant."""


@dataclass(frozen=True, slots=True)
class Plan:
    """places: of the events to erase; already: how many more were meant that a record covers; blocks: how
    many hold the events, none of which changes; snapshots: by branch, how many states of projections were
    taken after the first of them, and may hold what was derived from them; to_mine: blocks to mine, the
    record's and the one that names it; hashes: what that takes on average."""

    origin: str
    places: Places
    already: int
    blocks: int
    snapshots: dict[str, int]
    to_mine: int
    hashes: int


def plan_erasure(store: ChainStore, events: EventStore, positions: NDArray[np.int64]) -> Plan:
    """The plan for events at rising positions, (n,).

    Raises StoreError for one that is not sealed, and for one that is not what was sealed: what cannot be
    proven is not declared lawfully erased.
    """
    with store.snapshot():
        prefix, records = SealedPrefix(store), Records(store)
        known = records.cover(positions, sealed=False)
        wanted = positions[~known]
        places = require_sealed(store, events, wanted)
        heights = _blocks(store, prefix, places.indices)
        to_mine = 2 if len(places) else 0
        return Plan(
            origin=prefix.branch.origin,
            places=places,
            already=int(known.sum()),
            blocks=len(heights),
            snapshots=_snapshots(store, int(heights[0])) if len(heights) else {},
            to_mine=to_mine,
            hashes=to_mine * work_of(int(store.last_block(prefix.branch.id).headers["bits"][0])),
        )


def require_sealed(store: ChainStore, events: EventStore, positions: NDArray[np.int64]) -> Places:
    """Where the events at these rising positions stand in the trunk's log. Raises StoreError for one that is
    not sealed, or not what was sealed."""
    prefix = SealedPrefix(store)
    log = LogReader(store, prefix.branch.id)
    places = places_of(log, prefix.size, positions)
    if len(places) < len(positions):
        first = int(np.setdiff1d(positions, places.positions)[0])
        raise StoreError(
            f"the event at position {first} is not sealed",
            hint="only what the chain commits to is erased through it; `eventchain mine` seals it",
        )
    _require_sound(log, events, places)
    return places


def positions_of(events: EventStore, wanted: Iterable[str | int]) -> NDArray[np.int64]:
    """The positions of events by id or position. Raises StoreError where there is none, or several."""
    found = {find_event(events, event).position for event in wanted}
    return np.array(sorted(found), np.int64)


def positions_where(
    events: EventStore, matches: Matches, progress: Callable[[int], None] = lambda count: None
) -> NDArray[np.int64]:
    """The positions of all events that match. ``progress`` is told of the events that were looked at."""
    found = [np.empty(0, np.int64)]
    for batch in all_events(events):
        found.append(batch["position"].to_numpy()[matches(batch)])
        progress(batch.num_rows)
    return np.concatenate(found)


def in_stream(stream: str) -> Matches:
    """The events of one stream."""

    def matches(batch: Any) -> NDArray[np.bool_]:
        from pyarrow import compute  # takes a while to load

        return np.asarray(compute.equal(batch["stream"], stream).to_numpy(zero_copy_only=False), np.bool_)

    return matches


def chosen_by(events: EventStore, filter: Filter, types: Sequence[str] = ()) -> Matches:
    """The events that a projection's filter takes, of one of these types if any are given. It sees payloads
    decrypted where the event store was opened with keys."""
    from eventchain.projections.page import Events, Page

    def matches(batch: Any) -> NDArray[np.bool_]:
        from pyarrow import array, compute

        rows = np.arange(batch.num_rows)
        if types:
            rows = np.flatnonzero(compute.is_in(batch["type"], array(types)).to_numpy(zero_copy_only=False))
        page = Page(readable(events, batch) if filter.where else batch, filter.paths)
        found = np.zeros(batch.num_rows, np.bool_)
        found[filter.chosen(Events(page, rows)).rows] = True
        return found

    return matches


def sealed_among(store: ChainStore, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of rising positions, (n,), at which the chain has a sealed event."""
    with store.snapshot():
        prefix = SealedPrefix(store)
        return np.sort(places_of(LogReader(store, prefix.branch.id), prefix.size, positions).positions)


def _require_sound(log: LogReader, events: EventStore, places: Places) -> None:
    for stretch in places.stretches():
        found = events_at(log, events, stretch)
        if len(found.rows) < len(stretch):
            gone = np.setdiff1d(np.arange(len(stretch)), found.rows)
            first = int(stretch.indices[0])
            salts = log.salts(first, int(stretch.indices[-1]) + 1)[stretch.indices[gone] - first]
            gone = gone[~salts.erased]  # the rows of others an erasure in place may have taken
            if len(gone):
                raise _unsound(int(stretch.positions[gone].min()), "is missing")
        wrong = found.rows[~found.as_sealed]
        if len(wrong):
            raise _unsound(int(stretch.positions[wrong].min()), "is not what was sealed")


def _unsound(position: int, what: str) -> StoreError:
    return StoreError(
        f"the event at position {position} {what}: that cannot be made lawful afterwards",
        hint="`eventchain verify` names everything that is wrong",
    )


def _blocks(store: ChainStore, prefix: SealedPrefix, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """The heights of the blocks that hold these leaves, rising."""
    found = [np.empty(0, np.int64)]
    first = size = 0
    while first <= prefix.height and len(rows := store.blocks(prefix.branch.id, first, SCAN)):
        ends = np.array([said_of(raw).size for raw in rows.manifests], np.int64)
        here = indices[(indices >= size) & (indices < ends[-1])]
        found.append(rows.heights[np.unique(np.searchsorted(ends, here, side="right"))])
        first, size = int(rows.heights[-1]) + 1, int(ends[-1])
    return np.concatenate(found)


def _snapshots(store: ChainStore, height: int) -> dict[str, int]:
    """How many snapshots of a block from ``height`` on each branch has."""
    found: dict[str, int] = {}
    for branch in store.branches()[1:]:
        first = 0
        while len(rows := store.blocks(branch.id, first, SCAN)):
            pins = [said_of(raw).pin for raw in rows.manifests if b"\npin " in raw]
            count = sum(pin is not None and pin.height >= height for pin in pins)
            if count:
                found[branch.origin] = found.get(branch.origin, 0) + count
            first = int(rows.heights[-1]) + 1
    return found
