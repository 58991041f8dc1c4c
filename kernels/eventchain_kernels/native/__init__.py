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


def compress_rows(blocks: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """State after one SHA-256 compression of each block (n, 64) from the initial state: (n, 8) uint32."""
    from math import isqrt

    primes = [p for p in range(2, 312) if all(p % q for q in range(2, p))]
    roots = [round(p ** (1 / 3) // 1) for p in primes]
    k = [_cube_root_fraction(p, r) for p, r in zip(primes, roots, strict=True)]
    state = [np.full(len(blocks), (isqrt(p << 64)) & 0xFFFFFFFF, np.uint32) for p in primes[:8]]
    w = list(np.ascontiguousarray(blocks).view(">u4").astype(np.uint32).T)

    def rotate(x: Any, n: int) -> Any:
        return x >> np.uint32(n) | x << np.uint32(32 - n)

    for t in range(16, 64):
        s0 = rotate(w[t - 15], 7) ^ rotate(w[t - 15], 18) ^ (w[t - 15] >> np.uint32(3))
        s1 = rotate(w[t - 2], 17) ^ rotate(w[t - 2], 19) ^ (w[t - 2] >> np.uint32(10))
        w.append(w[t - 16] + s0 + w[t - 7] + s1)
    a, b, c, d, e, f, g, h = state
    for t in range(64):
        t1 = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + (g ^ (e & (f ^ g))) + np.uint32(k[t]) + w[t]
        t2 = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (c & (a ^ b)))
        a, b, c, d, e, f, g, h = t1 + t2, a, b, c, d + t1, e, f, g
    return np.stack([x + y for x, y in zip((a, b, c, d, e, f, g, h), state, strict=True)], axis=1)


def _cube_root_fraction(prime: int, root: int) -> int:
    low, high = 0, 2**40
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**3 <= prime << 96 else (low, middle - 1)
    return low & 0xFFFFFFFF
