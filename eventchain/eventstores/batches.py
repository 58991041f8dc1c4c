"""Batches that were read piece by piece, as the one that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from eventchain.errors import StoreError
from eventchain.formats.event import empty_batch


def joined(batches: Sequence[Any]) -> Any:
    """One batch of EVENT_SCHEMA. Raises StoreError when a column would be larger than Arrow allows."""
    if len(batches) < 2:
        return batches[0] if batches else empty_batch()
    whole = pa.Table.from_batches(batches).combine_chunks().to_batches()
    if len(whole) != 1:
        count = sum(batch.num_rows for batch in batches)
        raise StoreError(f"{count} events are more than 2 GiB", hint="read fewer at a time")
    return whole[0]
