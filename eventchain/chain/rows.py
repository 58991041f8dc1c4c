"""Events of a store by their positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from eventchain.formats.event import empty_batch

ROWS, BYTES = 16_384, 16 * 2**20
"""What is read at a time, at most: rows, and their size going by those before."""
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


def joined(parts: list[Any]) -> Any:
    """Arrow batches of EVENT_SCHEMA as one."""
    parts = [part for part in parts if part.num_rows]
    if len(parts) < 2:
        return parts[0] if parts else empty_batch()
    return pa.Table.from_batches(parts).combine_chunks().to_batches()[0]


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
