"""SHA-256 on the host, over many messages at once."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray


def sha256_rows(rows: NDArray[np.uint8], prefix: bytes = b"") -> NDArray[np.uint8]:
    """SHA-256 of ``prefix ‖ row`` for each row of ``rows`` (n, length): (n, 32) uint8."""
    digests = b"".join(hashlib.sha256(prefix + row.tobytes()).digest() for row in rows)
    return np.frombuffer(digests, np.uint8).reshape(-1, 32)


def sha256_spans(data: NDArray[np.uint8], offsets: NDArray[Any], prefix: bytes = b"") -> NDArray[np.uint8]:
    """SHA-256 of ``prefix ‖ data[offsets[i]:offsets[i + 1]]`` for n + 1 offsets: (n, 32) uint8."""
    raw = memoryview(np.ascontiguousarray(data)).cast("B")
    ends = offsets.tolist()
    pairs = zip(ends[:-1], ends[1:], strict=True)
    digests = b"".join(hashlib.sha256(prefix + bytes(raw[a:b])).digest() for a, b in pairs)
    return np.frombuffer(digests, np.uint8).reshape(-1, 32)
