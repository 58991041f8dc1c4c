"""The erasure records of a chain: what was erased, by whom, when and why."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from eventchain.chain.nodes import damaged
from eventchain.chain.prefix import SealedPrefix, trunk_of
from eventchain.contracts.chain_store import ChainStore
from eventchain.errors import FormatError
from eventchain.formats.erasure import Erasure, branch_of

EVENTS = 1024
"""Records read at a time."""


@dataclass(frozen=True, slots=True)
class Record:
    """``number``: its position on the branch ``origin``; ``time``: microseconds since 1970 UTC; ``sealed``:
    only then anything may be destroyed."""

    origin: str
    number: int
    erasure: Erasure
    time: int
    sealed: bool

    @property
    def id(self) -> str:
        return f"{self.origin}/{self.number}"


class Records(list[Record]):
    """All records of a chain store, oldest first. Raises StoreError where one cannot be read."""

    def __init__(self, store: ChainStore) -> None:
        super().__init__()
        self.origin = branch_of(trunk_of(store).origin)
        self.branch = next((branch for branch in store.branches() if branch.origin == self.origin), None)
        if self.branch is None:
            return
        sealed = SealedPrefix(store, self.branch).size
        while (batch := store.events(self.branch.id, len(self) - 1, EVENTS)).num_rows:
            for row in batch.to_pylist():
                number = len(self)
                try:
                    erasure = Erasure.parse(row["data"] or b"")
                except FormatError as error:
                    raise damaged(f"{self.origin}/{number}: {error.message}") from error
                self.append(Record(self.origin, number, erasure, row["time"], number < sealed))

    def of(self, position: int) -> Record | None:
        """The first record that covers a position."""
        at = np.array([position])
        return next((record for record in self if record.erasure.covers(at)[0]), None)

    def cover(
        self, positions: NDArray[np.int64], *, sealed: bool, removed: bool = False
    ) -> NDArray[np.bool_]:
        """Whether each position (n,) is in a record of an erasure in place, or of a removal; or in a sealed
        one: (n,)."""
        known = [
            record.erasure.covers(positions)
            for record in self
            if (record.sealed or not sealed) and removed == (record.erasure.removal is not None)
        ]
        return reduce(np.logical_or, known, np.zeros(len(positions), np.bool_))
