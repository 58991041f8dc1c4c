"""Events of a store by their positions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from eventchain.contracts.event_store import EventStore
from eventchain.formats.event import joined

ROWS, BYTES = 16_384, 16 * 2**20
"""What is read at a time, at most: rows, and their size going by those before."""
PAGE = 32_768
"""Rows that are read at a time where all are."""
Read = Callable[[int | None, int], Any]
"""An event store's ``read``."""


def rows_at(read: Read, positions: NDArray[np.int64]) -> Any:
    """An Arrow batch of the events at these rising positions, (n,): those that there are."""
    parts = []
    most = min(len(positions), ROWS)
    while len(positions):  # with what lies between: one read for many costs less than one for each
        first, last = int(positions[0]), int(positions[-1])
        batch = read(first - 1 if first else None, min(most, last - first + 1))
        most = max(1, min(ROWS, BYTES * batch.num_rows // max(1, batch.nbytes)))
        found = batch["position"].to_numpy()
        wanted = np.isin(found, positions)
        if not len(found):
            break
        parts.append(batch if wanted.all() else batch.filter(pa.array(wanted)))
        positions = positions[np.searchsorted(positions, found[-1], side="right") :]
    return joined(parts)


def all_events(events: EventStore) -> Iterator[Any]:
    """Batches of every event that the store holds now, ascending."""
    head = events.head()
    after: int | None = None
    while head is not None and (after is None or after < head):
        batch = events.read(after, PAGE)
        if not batch.num_rows:
            return
        after = batch["position"][-1].as_py()
        yield batch


def readable(events: Any, batch: Any) -> Any:
    """Rows that an event store gave as people read them: decrypted where it was opened with keys."""
    decrypted = getattr(events, "decrypted", None)
    return batch if decrypted is None else decrypted(batch).batch


def without_payload(batch: Any, erased: NDArray[np.bool_]) -> Any:
    """The batch with data and metadata null in the rows of events that were erased, (n,)."""
    if not erased.any():
        return batch
    from pyarrow import compute  # takes a while to load

    for name in ("data", "metadata"):
        at = batch.schema.get_field_index(name)
        kept = compute.if_else(pa.array(erased), pa.scalar(None, pa.binary()), batch.column(at))
        batch = batch.set_column(at, batch.schema.field(at), kept)
    return batch
