"""The formats once more, one event and one header at a time, with struct and hashlib: what the tests hold the
package against. It shares no code with it."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import NamedTuple


class Event(NamedTuple):
    position: int
    stream: str
    version: int
    id: str
    type: str
    time: int
    data: bytes | None
    metadata: bytes | None


def sha256(raw: bytes) -> bytes:
    return hashlib.sha256(raw).digest()


def sha256d(raw: bytes) -> bytes:
    return sha256(sha256(raw))


def field(value: bytes | None) -> bytes:
    if value is None:
        return b"\xff" * 8
    return struct.pack(">Q", len(value)) + value


def text(value: str) -> bytes:
    raw = value.encode("utf-8")
    return struct.pack(">I", len(raw)) + raw


def commitment(event: Event, salt: bytes) -> bytes:
    assert len(salt) == 16
    return sha256(b"\x03" + salt + field(event.data) + field(event.metadata))


def entry(event: Event, salted: bytes) -> bytes:
    return b"".join(
        [
            b"eventchain/1\n",
            struct.pack(">Q", event.position),
            struct.pack(">q", event.version),
            struct.pack(">q", event.time),
            text(event.stream),
            text(event.id),
            text(event.type),
            salted,
        ]
    )


def leaf(event: Event, salt: bytes) -> bytes:
    return sha256(b"\x00" + entry(event, commitment(event, salt)))


# -- RFC 6962 section 2.1, as it is written there


def mth(leaves: Sequence[bytes]) -> bytes:
    n = len(leaves)
    if n == 0:
        return sha256(b"")
    if n == 1:
        return leaves[0]
    k = largest_power_below(n)
    return sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:]))


def path(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    n = len(leaves)
    if n == 1:
        return []
    k = largest_power_below(n)
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def proof(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    return subproof(m, leaves, True)


def subproof(m: int, leaves: Sequence[bytes], whole: bool) -> list[bytes]:
    n = len(leaves)
    if m == n:
        return [] if whole else [mth(leaves)]
    k = largest_power_below(n)
    if m <= k:
        return [*subproof(m, leaves[:k], whole), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


def largest_power_below(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


# -- headers


def target(bits: int) -> int:
    exponent, mantissa = divmod(bits, 2**24)
    return mantissa * 256**exponent // 256**3


def header(version: int, prev: bytes, merkle_root: bytes, time: int, bits: int, nonce: int) -> bytes:
    raw = struct.pack("<I", version) + prev + merkle_root + struct.pack("<III", time, bits, nonce)
    assert len(raw) == 80
    return raw


def merkle_root(manifest: bytes, extranonce: int) -> bytes:
    return sha256d(manifest + struct.pack(">Q", extranonce))


def link(prev: bytes, manifest: bytes, bits: int) -> bytes:
    return sha256d(header(0x20000000, prev, merkle_root(manifest, 0), 0, bits, 0))


def seal(previous: bytes, link: bytes, mined: bytes, extranonce: int) -> bytes:
    assert len(previous) == len(link) == 32
    assert len(mined) == 80
    return sha256(b"\x02" + previous + link + mined + struct.pack(">Q", extranonce))


def work_is_done(raw: bytes) -> bool:
    (bits,) = struct.unpack("<I", raw[72:76])
    return int.from_bytes(sha256d(raw), "little") <= target(bits)
