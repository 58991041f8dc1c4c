"""SHA-256 over many messages at once, straight over numpy and Arrow buffers."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from eventchain_kernels.native import Spans, sha256_joined, sha256_rows

__all__ = ["sha256_joined", "sha256_rows", "values"]

_OFFSET_SIZES: dict[Any, int] = {pa.string(): 4, pa.binary(): 4, pa.large_string(): 8, pa.large_binary(): 8}


def values(column: Any, field: int) -> Spans:
    """The values of an Arrow string or binary column, each after its length in ``field`` bytes, big-endian;
    a null is a length of all ones and nothing behind it."""
    if column.type not in _OFFSET_SIZES:
        column = column.cast(pa.large_binary())
    valid, offsets, data = column.buffers()
    return Spans(
        data=data.address if data is not None else 0,
        offsets=offsets.address if offsets is not None else 0,
        offset_size=_OFFSET_SIZES[column.type],
        valid=valid.address if valid is not None else 0,
        first=column.offset,
        field=field,
        owner=column,
    )
