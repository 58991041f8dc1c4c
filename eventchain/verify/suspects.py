"""Events and leaves that do not fit together, and how an event is held against a leaf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from eventchain.errors import FormatError
from eventchain.formats.event import EVENT_SCHEMA, empty_batch
from eventchain.formats.hashing import equal_rows
from eventchain.formats.log import Hashes
from eventchain.formats.salts import Salts
from eventchain.verify.leaves import NOWHERE


def safe_leaf_hashes(batch: Any, salts: Salts) -> Hashes:
    """Leaf hashes, zero for an event that was edited into something too long to be an entry. To be compared
    by :func:`agree` only."""
    try:
        return salts.leaves(batch)
    except FormatError:
        if batch.num_rows == 1:
            return np.zeros((1, 32), np.uint8)
        half = batch.num_rows // 2
        parts = [safe_leaf_hashes(batch.slice(0, half), salts[:half])]
        parts.append(safe_leaf_hashes(batch.slice(half), salts[half:]))
        return np.concatenate(parts)


def agree(derived: Hashes, stored: Hashes) -> NDArray[np.bool_]:
    """Whether each event's leaf is the stored one. Zero stands for none: a leaf that is zero fits nothing,
    though a block commit to it."""
    return equal_rows(derived, stored) & ~equal_rows(derived, np.zeros_like(derived))


def at_positions(batch: Any, positions: NDArray[np.int64]) -> Any:
    """The batch as if its events stood at these positions."""
    return batch.set_column(0, EVENT_SCHEMA.field(0), pa.array(positions, pa.int64()))


@dataclass
class Suspects:
    """Events and leaves of a window that do not fit.

    events: Arrow batch; leaves: (n,) int64, the log index of each event's leaf by position, −1 for none;
    lacking: (m,) int64, log indices of leaves at whose position no event stands.
    """

    events: Any
    leaves: NDArray[np.int64]
    lacking: NDArray[np.int64]

    @classmethod
    def none(cls) -> Suspects:
        return cls(empty_batch(), np.empty(0, np.int64), np.empty(0, np.int64))

    def differ(self, events: Any, leaves: NDArray[np.int64]) -> None:
        """Events that do not hash to the leaf at their position."""
        self.events = concat(self.events, events)
        self.leaves = np.concatenate([self.leaves, leaves])

    def extra(self, events: Any) -> None:
        """Events at a position that no leaf has."""
        self.differ(events, np.full(events.num_rows, NOWHERE, np.int64))

    def lack(self, leaves: NDArray[np.int64]) -> None:
        self.lacking = np.concatenate([self.lacking, leaves])

    def acquit(self, first: int, end: int) -> None:
        """The leaves of this range were wrong, not the events."""
        keep = (self.leaves < first) | (self.leaves >= end)
        self.events, self.leaves = take(self.events, keep), self.leaves[keep]

    def touch(self, first: int, end: int) -> bool:
        """Whether any suspect belongs to this range of leaves."""
        return bool(
            ((self.leaves >= first) & (self.leaves < end)).any()
            or ((self.lacking >= first) & (self.lacking < end)).any()
        )

    def __bool__(self) -> bool:
        return bool(len(self.leaves) or len(self.lacking))


def take(batch: Any, keep: NDArray[np.bool_]) -> Any:
    return batch if keep.all() else batch.take(pa.array(np.flatnonzero(keep)))


def concat(one: Any, other: Any) -> Any:
    if not one.num_rows or not other.num_rows:
        return other if other.num_rows else one
    return pa.Table.from_batches([one, other], EVENT_SCHEMA).combine_chunks().to_batches()[0]
