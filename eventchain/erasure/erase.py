"""Erasing in place, so that it can be broken off at any moment and gone on with.

1. The record is built and sealed (:func:`record`). From then on it is known what must be gone.
2. Commitments take the place of the salts, in the chain store, each piece of it marked as unfinished.
3. The payloads are destroyed in the event store: not before 2, since a commitment is made from the payload.
4. The chain store's files are scrubbed, and the marks are taken away.

Whatever of 2 to 4 is missing shows in the rows themselves, so :func:`complete` finds it again, also where an
older copy of the event store was put back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from eventchain.chain.build import Builder, Built
from eventchain.chain.nodes import LogReader, damaged, piece_digest
from eventchain.chain.prefix import SealedPrefix
from eventchain.chain.sealing import Progress, Sealer
from eventchain.contracts.chain_store import TILE, UNFINISHED, Branch, ChainStore, Piece
from eventchain.contracts.event_store import EventStore
from eventchain.erasure.plan import Plan
from eventchain.erasure.records import Records
from eventchain.erasure.stretches import PAGE, STRETCH, Places, events_at
from eventchain.formats.erasure import TYPE, Erasure, ranges_of
from eventchain.formats.event import EVENT_SCHEMA
from eventchain.formats.leaf import commitments
from eventchain.formats.salts import Salts

Report = Callable[[str, int], None]
"""Is told what is done now, and with how many events."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Positions, (n,) each, rising. erased: destroyed now; waiting: of events whose payload the
    administrator of another application's store has to destroy; lost: of events that were gone before their
    commitment could be made, so that they can no longer be proven and keep their salt."""

    erased: NDArray[np.int64]
    waiting: NDArray[np.int64]
    lost: NDArray[np.int64]


def record(
    sealer: Sealer,
    plan: Plan,
    reason: str,
    actor: str,
    block_events: int,
    report: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Put the erasure on record and seal it, together with whatever waits to be sealed. Positions that have
    come on record since the plan was made are left out."""
    store, builder = sealer.builder.store, sealer.builder
    records = Records(store)
    positions = np.sort(plan.places.positions)
    positions = positions[~records.cover(positions, sealed=False)]
    if len(positions):
        erasure = Erasure(plan.origin, ranges_of(positions), reason, actor)
        with store.transaction():
            built = record_event(builder, records, erasure)
        sealer.build(built)
    sealer.seal_backlog(block_events, report)


def record_event(builder: Builder, records: Records, erasure: Erasure) -> Built:
    """A block with one more record, inside ``store.transaction()``."""
    number, origin = len(records), records.origin
    event = {
        "position": number,
        "stream": origin,
        "version": number,
        "id": f"{origin}/{number}",
        "type": TYPE,
        "time": 0,  # the builder's
        "data": bytes(erasure),
        "metadata": None,
    }
    batch = pa.RecordBatch.from_pylist([event], schema=EVENT_SCHEMA)
    if records.branch is None:
        return builder.add_child(builder.trunk, 0, origin, batch)
    return builder.extend_child(builder.tips[origin], batch)


def complete(store: ChainStore, events: EventStore, report: Report = lambda what, count: None) -> Outcome:
    """Destroy whatever a sealed record says is erased and is still there. Inside ``store.writer()``, with no
    builder at work: that would hold salts. Raises StoreError where a store cannot be written or scrubbed;
    what is missing then is done the next time."""
    prefix = SealedPrefix(store)
    log = LogReader(store, prefix.branch.id)
    recorded = _recorded(store, log, prefix)
    salted, unfinished = _state(store, prefix.branch, recorded)
    payload = _with_payload(log, events, recorded)
    pending = recorded[np.flatnonzero(salted | unfinished | payload)]
    if not len(pending):
        nothing = np.empty(0, np.int64)
        return Outcome(nothing, nothing, nothing)

    report("replacing salts by commitments", len(pending))
    with store.transaction():
        lost = _replace_salts(store, prefix.branch, events, pending)
    ours = getattr(events, "erase", None)
    if ours is not None:
        report("destroying payloads", len(pending))
        ours(np.sort(pending.positions))
    report("scrubbing the chain store", len(pending))
    store.scrub()
    with store.transaction():
        _finish(store, prefix.branch, pending)
    waiting = np.empty(0, np.int64)
    if ours is None:
        waiting = np.sort(recorded.positions[payload])
    erased = np.setdiff1d(pending.positions, np.concatenate([waiting, lost]))
    return Outcome(erased, waiting, lost)


def _recorded(store: ChainStore, log: LogReader, prefix: SealedPrefix) -> Places:
    """The events that sealed records cover."""
    records = Records(store)
    indices, positions = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for first in range(0, prefix.size if records else 0, PAGE):
        page = log.positions(first, min(first + PAGE, prefix.size))
        hits = np.flatnonzero(records.cover(page, sealed=True))
        indices.append(first + hits)
        positions.append(page[hits])
    return Places(np.concatenate(indices), np.concatenate(positions))


def _state(store: ChainStore, trunk: Branch, places: Places) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Of each place, (n,): whether its salt is still there, and whether its piece is unfinished."""
    salted, unfinished = np.zeros(len(places), np.bool_), np.zeros(len(places), np.bool_)
    for rows, piece in _pieces(store, trunk, places):
        salts = Salts.read(piece.salts, len(piece.positions) // 8)
        salted[rows] = ~salts.erased[places.indices[rows] % TILE]
        unfinished[rows] = piece.digest == UNFINISHED
    return salted, unfinished


def _with_payload(log: LogReader, events: EventStore, places: Places) -> NDArray[np.bool_]:
    found, done = np.zeros(len(places), np.bool_), 0
    for stretch in places.stretches():
        here = events_at(log, events, stretch)
        found[done + here.rows] = here.hold_payload
        done += len(stretch)
    return found


def _replace_salts(
    store: ChainStore, trunk: Branch, events: EventStore, pending: Places
) -> NDArray[np.int64]:
    """Put commitments in the place of salts, and mark the pieces as unfinished; the positions of events that
    are not what was sealed, which keep their salts."""
    lost = [np.empty(0, np.int64)]
    for stretch in pending.stretches():
        here = events_at(LogReader(store, trunk.id), events, stretch)
        sound = here.as_sealed & ~here.salts.erased
        new = np.zeros((len(stretch), 32), np.uint8)
        new[here.rows[sound]] = commitments(here.batch, here.salts.salts)[sound]
        changed = []
        for rows, piece in _pieces(store, trunk, stretch):
            salts = Salts.read(piece.salts, len(piece.positions) // 8)
            at = stretch.indices[rows] % TILE
            made = new[rows].any(axis=1)
            lost.append(stretch.positions[rows][~made & ~salts.erased[at]])
            salts = salts.erase(at[made], new[rows][made])
            changed.append(piece._replace(salts=bytes(salts), digest=UNFINISHED))
        _put(store, trunk, changed)
    return np.sort(np.concatenate(lost))


def _finish(store: ChainStore, trunk: Branch, pending: Places) -> None:
    for stretch in pending.stretches():
        _put(
            store,
            trunk,
            [
                piece._replace(digest=piece_digest(piece.salts, piece.positions))
                for _, piece in _pieces(store, trunk, stretch)
            ],
        )


def _pieces(store: ChainStore, trunk: Branch, places: Places) -> Iterator[tuple[NDArray[np.int64], Piece]]:
    """The pieces that hold the places, and which of them each holds."""
    numbers = places.indices // TILE
    held: dict[int, Piece] = {}
    for rows in np.split(np.arange(len(places)), np.flatnonzero(np.diff(numbers)) + 1):
        if len(rows):
            number = int(numbers[rows[0]])
            if number not in held:
                limit = min(STRETCH // TILE, int(numbers[-1]) - number + 1)
                held = {piece.index: piece for piece in store.pieces(trunk.id, number, limit)}
            if number not in held:
                raise damaged(f"piece {number} is missing")
            yield rows, held[number]


def _put(store: ChainStore, trunk: Branch, pieces: list[Piece]) -> None:
    """Write pieces, those that follow one another together."""
    start = 0
    for end in range(1, len(pieces) + 1):
        if end == len(pieces) or pieces[end].index != pieces[end - 1].index + 1:
            store.put_pieces(trunk.id, pieces[start:end])
            start = end
