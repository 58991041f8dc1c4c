"""What hides the payloads of a log's events: a salt for each or, once a payload was erased, its commitment.

In a chain store the salts of a run of leaves are one string of bytes: 16 bytes a leaf, zero for a leaf that
was erased, then the 32-byte commitments of the erased ones in the order of their leaves. So a commitment
takes its salt's place in one write, and what is left of the salt is nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from eventchain.formats.leaf import SALT, entry_leaves, leaf_hashes
from eventchain.formats.log import Hashes

COMMITMENT = 32
_ERASED = bytes(SALT)
"""No salt is that: they are random."""


@dataclass(frozen=True, slots=True)
class Salts:
    """Of n leaves. salts: (n, 16) uint8, zero where erased; commitments: (n, 32) uint8, zero where not
    erased or gone; None where nothing is erased, which is most often so."""

    salts: NDArray[np.uint8]
    commitments: Hashes | None = None

    @classmethod
    def read(cls, raw: bytes, leaves: int) -> Salts:
        """From a chain store's bytes, as far as they go: a salt that is not there is zero."""
        salts = np.zeros((leaves, SALT), np.uint8)
        row = np.frombuffer(raw[: SALT * leaves], np.uint8)
        row = row[: len(row) // SALT * SALT].reshape(-1, SALT)
        salts[: len(row)] = row
        if _ERASED not in raw:  # the fastest search; zeros across two salts are looked at below
            return cls(salts)
        erased = np.flatnonzero(~row.any(axis=1))
        if not len(erased):
            return cls(salts)
        commitments = np.zeros((leaves, COMMITMENT), np.uint8)
        kept = np.frombuffer(raw[SALT * leaves :], np.uint8)
        kept = kept[: len(kept) // COMMITMENT * COMMITMENT].reshape(-1, COMMITMENT)[: len(erased)]
        commitments[erased[: len(kept)]] = kept
        return cls(salts, commitments)

    @classmethod
    def join(cls, parts: Sequence[Salts]) -> Salts:
        salts = np.concatenate([part.salts for part in parts])
        if all(part.commitments is None for part in parts):
            return cls(salts)
        return cls(salts, np.concatenate([part._commitments() for part in parts]))

    def __bytes__(self) -> bytes:
        """As a chain store keeps them."""
        if self.commitments is None:
            return self.salts.tobytes()
        return self.salts.tobytes() + self.commitments[~self.salts.any(axis=1)].tobytes()

    def __len__(self) -> int:
        return len(self.salts)

    def __getitem__(self, rows: slice | NDArray[Any]) -> Salts:
        return Salts(self.salts[rows], None if self.commitments is None else self.commitments[rows])

    @property
    def erased(self) -> NDArray[np.bool_]:
        """Which leaves have a commitment in the place of their salt: (n,)."""
        if self.commitments is None:
            return np.zeros(len(self), np.bool_)
        return np.asarray(self.commitments.any(axis=1), np.bool_)

    def put(self, at: int, row: Salts) -> Salts:
        """The same with those of ``row`` from leaf ``at`` on; in place, where that can be."""
        self.salts[at : at + len(row)] = row.salts
        if self.commitments is None and row.commitments is None:
            return self
        commitments = self._commitments()
        commitments[at : at + len(row)] = row._commitments()
        return Salts(self.salts, commitments)

    def erase(self, rows: NDArray[np.int64], commitments: Hashes) -> Salts:
        """The same with these commitments in the place of their salts."""
        salts, every = self.salts.copy(), self._commitments().copy()
        salts[rows], every[rows] = 0, commitments
        return Salts(salts, every)

    def leaves(self, batch: Any) -> Hashes:
        """The leaf of each event of an Arrow batch: (n, 32). Of an erased one by its commitment, whatever
        data and metadata there are. Raises FormatError as :func:`~.leaf.leaf_hashes` does."""
        hashes = leaf_hashes(batch, self.salts)
        if self.commitments is not None:
            rows = np.flatnonzero(self.erased)
            hashes[rows] = entry_leaves(batch.take(pa.array(rows)), self.commitments[rows])
        return hashes

    def _commitments(self) -> Hashes:
        if self.commitments is None:
            return np.zeros((len(self), COMMITMENT), np.uint8)
        return self.commitments


def is_whole(raw: bytes, leaves: int) -> bool:
    """Whether these are the bytes of so many leaves: no commitment is missing, none is too many."""
    if len(raw) < SALT * leaves:
        return False
    row = np.frombuffer(raw[: SALT * leaves], np.uint8).reshape(-1, SALT)
    erased = int((~row.any(axis=1)).sum()) if _ERASED in raw else 0
    return len(raw) == SALT * leaves + COMMITMENT * erased
