"""Events of a store by their positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from eventchain.formats.event import empty_batch

ROWS = 16_384
"""Rows that are read at a time, at most."""
Read = Callable[[int | None, int], Any]
"""An event store's ``read``."""


def rows_at(read: Read, positions: NDArray[np.int64]) -> Any:
    """An Arrow batch of the events at these rising positions, (n,): those that there are."""
    parts = []
    while len(positions):
        batch = read(int(positions[0]) - 1 if positions[0] else None, min(len(positions), ROWS))
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
