"""An event batch: what every event store reads and everything above it hashes, as Arrow columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from eventchain.errors import StoreError

UNKNOWN = -(2**63)
"""Stands for a version or a time that the store does not know."""
MAX_POSITION = 2**63 - 1
IRREGULAR = "\ufdd0"
"""Begins the id of a row that holds what its columns do not allow; a code point that no text may
interchange, so that no event of an application has such an id."""

EVENT_SCHEMA: Any = pa.schema(
    [
        pa.field("position", pa.int64(), nullable=False),  # the store's global order, unique, gaps allowed
        pa.field("stream", pa.string(), nullable=False),
        pa.field("version", pa.int64(), nullable=False),  # position within the stream
        pa.field("id", pa.string(), nullable=False),
        pa.field("type", pa.string(), nullable=False),
        pa.field("time", pa.int64(), nullable=False),  # microseconds since 1970 UTC
        pa.field("data", pa.binary()),  # the bytes that the store keeps, never re-encoded
        pa.field("metadata", pa.binary()),
    ]
)


def irregular_id(digest: str, columns: Sequence[str], event_id: str) -> str:
    """The id that an event store gives a row with values that these columns do not allow. ``digest``, in
    hex and over all values as stored, keeps such rows apart; ``event_id`` is what the id column holds, empty
    when it is one of the columns."""
    return f"{IRREGULAR}{digest} {','.join(columns)} {event_id}"


def id_for_people(event_id: str) -> tuple[str, list[str]]:
    """What the id column holds, and the columns with values that they do not allow: none in a regular row."""
    if not event_id.startswith(IRREGULAR):
        return event_id, []
    _, _, rest = event_id.partition(" ")
    columns, _, plain = rest.partition(" ")
    return plain, columns.split(",") if columns else []


def empty_batch() -> Any:
    return pa.RecordBatch.from_pylist([], schema=EVENT_SCHEMA)


def joined(batches: Sequence[Any]) -> Any:
    """Record batches of EVENT_SCHEMA that were read piece by piece, as one. Raises StoreError when a column
    would be larger than Arrow allows."""
    batches = [batch for batch in batches if batch.num_rows]
    if len(batches) < 2:
        return batches[0] if batches else empty_batch()
    whole = pa.Table.from_batches(batches).combine_chunks().to_batches()
    if len(whole) != 1:
        count = sum(batch.num_rows for batch in batches)
        raise StoreError(f"{count} events are more than 2 GiB", hint="read fewer at a time")
    return whole[0]
