"""An event batch: what every event store reads and everything above it hashes, as Arrow columns."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

UNKNOWN = -(2**63)
"""Stands for a version or a time that the store does not know."""
MAX_POSITION = 2**63 - 1

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


def empty_batch() -> Any:
    return pa.RecordBatch.from_pylist([], schema=EVENT_SCHEMA)
