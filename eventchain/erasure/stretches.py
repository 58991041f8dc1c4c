"""The events to erase as the log has them, a stretch of the log at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventchain.chain.nodes import LogReader
from eventchain.chain.rows import rows_at
from eventchain.contracts.chain_store import TILE
from eventchain.contracts.event_store import EventStore
from eventchain.formats.log import Hashes
from eventchain.formats.salts import Salts

STRETCH = 64 * TILE
"""Leaves from the first to the last of a stretch, at most."""
PAGE = 256 * TILE
"""Leaves whose positions are read at a time."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where events stand in a log. indices, positions: (n,) int64, by rising index."""

    indices: NDArray[np.int64]
    positions: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, rows: NDArray[Any] | slice) -> Places:
        return Places(self.indices[rows], self.positions[rows])

    def stretches(self) -> Iterator[Places]:
        cuts = np.flatnonzero(np.diff(self.indices // STRETCH)) + 1
        for rows in np.split(np.arange(len(self)), cuts):
            if len(rows):
                yield self[rows]


@dataclass(frozen=True, slots=True)
class Events:
    """The events at some places that there are, by rising position, and what the log holds of them.

    rows: (m,) int64, of the places; batch: m Arrow rows; salts: m; leaves: (m, 32)."""

    rows: NDArray[np.int64]
    batch: Any
    salts: Salts
    leaves: Hashes

    @property
    def as_sealed(self) -> NDArray[np.bool_]:
        """Whether each is what was sealed: (m,)."""
        return np.asarray((self.salts.leaves(self.batch) == self.leaves).all(axis=1), np.bool_)

    @property
    def hold_payload(self) -> NDArray[np.bool_]:
        """Whether data or metadata of each is still there: (m,)."""
        null = [self.batch.column(name).is_null().to_numpy(False) for name in ("data", "metadata")]
        return np.asarray(~(null[0] & null[1]), np.bool_)


def places_of(log: LogReader, size: int, positions: NDArray[np.int64]) -> Places:
    """Where the events at these rising positions stand in a log of ``size`` leaves, as far as they do."""
    found: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    at: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    for first in range(0, size if len(positions) else 0, PAGE):
        page = log.positions(first, min(first + PAGE, size))
        hits = np.flatnonzero(np.isin(page, positions))
        found.append(first + hits)
        at.append(page[hits])
    return Places(np.concatenate(found), np.concatenate(at))


def events_at(log: LogReader, events: EventStore, places: Places) -> Events:
    """The events at the places of one stretch."""
    order = np.argsort(places.positions)
    batch = rows_at(events.read, places.positions[order])
    rows = order[np.isin(places.positions[order], batch["position"].to_numpy())]
    first, end = int(places.indices[0]), int(places.indices[-1]) + 1
    at = places.indices[rows] - first
    return Events(rows, batch, log.salts(first, end)[at], log.leaves(first, end)[at])
