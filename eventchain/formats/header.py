"""The 80-byte block header in Bitcoin's layout, its target, work, link and seal.

Headers travel as one numpy array of :data:`HEADER`. Digests are raw bytes in the order SHA-256 gives
them, never reversed. Sources: Bitcoin's block header and compact target (``nBits``); BIP 320 for the
version bits that miners may roll; the chain's own format for link and seal.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from eventchain.errors import FormatError
from eventchain.formats.hashing import (
    chain_seals,
    integers,
    sha256_joined,
    sha256_rows,
    values,
)

HEADER = np.dtype(
    [
        ("version", "<u4"),
        ("prev", "u1", (32,)),
        ("merkle_root", "u1", (32,)),
        ("time", "<u4"),
        ("bits", "<u4"),
        ("nonce", "<u4"),
    ]
)
VERSION = 0x20000000
ROLL_SHIFT = 13
ROLL_MASK = 0x1FFFE000
"""The sixteen version bits that BIP 320 gives to miners."""
MAX_EXTRANONCE = 2**63 - 1
ZERO = bytes(32)

assert HEADER.itemsize == 80


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def sha256d(*parts: bytes) -> bytes:
    return hashlib.sha256(sha256(*parts)).digest()


# -- targets ------------------------------------------------------------------------------------------


def target_of(bits: int) -> int:
    """The 256-bit target of a compact ``bits``. Raises FormatError unless it is canonical, positive and at
    most 256 bits wide."""
    exponent, mantissa = bits >> 24, bits & 0xFFFFFF
    target = mantissa << 8 * (exponent - 3) if exponent >= 3 else mantissa >> 8 * (3 - exponent)
    if mantissa & 0x800000 or not 0 < target < 2**256 or bits_of(target) != bits:
        raise FormatError(f"{bits:08x} is not a canonical compact target")
    return target


def bits_of(target: int) -> int:
    """The compact form of a target, rounded down to the 23 bits of mantissa that it keeps."""
    size = (target.bit_length() + 7) // 8
    mantissa = target << 8 * (3 - size) if size <= 3 else target >> 8 * (size - 3)
    if mantissa & 0x800000:  # the mantissa's top bit is a sign
        mantissa >>= 8
        size += 1
    return size << 24 | mantissa


def bits_for_difficulty(difficulty: float) -> int:
    """Compact bits whose expected work is at least ``2**difficulty`` hashes (0 to 224)."""
    if not 0 <= difficulty <= 224:
        raise FormatError(f"a difficulty of {difficulty} bits is not between 0 and 224")
    # In integers as far as it goes: 2**(256 - difficulty), its fraction of a bit from a float.
    return bits_of((int(2 ** (60 - difficulty % 1)) << 196 >> int(difficulty)) - 1)


def work_of(bits: int) -> int:
    """Expected hashes for a block: ``2**256 // (target + 1)``, as Bitcoin counts chain work."""
    return 2**256 // (target_of(bits) + 1)


def target_words(bits: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Targets of ``bits`` (n,) as little-endian words: (n, 8) uint32, word 7 the most significant.

    Raises FormatError for bits that are not a valid compact target.
    """
    table, where = _targets(bits)
    return table[where]


def are_targets(bits: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Whether each of ``bits`` (n,) is a compact target at all, see :func:`target_of`."""
    distinct, where = _distinct(bits)
    known = np.ones(len(distinct), np.bool_)
    for number, one in enumerate(distinct.tolist()):
        try:
            target_of(one)
        except FormatError:
            known[number] = False
    return known[where]


def _targets(bits: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The few distinct targets, (m, 8) uint32, and which of them each header has."""
    distinct, where = _distinct(bits)
    rows = b"".join(target_of(one).to_bytes(32, "little") for one in distinct.tolist())
    return np.frombuffer(rows, "<u4").reshape(len(distinct), 8), where


def _distinct(bits: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Distinct values, and which of them each element is. Neighbours mostly agree, and are not sorted."""
    starts = np.flatnonzero(np.diff(bits, prepend=~bits[:1]))
    distinct, where = np.unique(bits[starts], return_inverse=True)
    return distinct, np.repeat(where.reshape(-1), np.diff(starts, append=len(bits)))


# -- work ---------------------------------------------------------------------------------------------


def header_hashes(headers: NDArray[Any]) -> NDArray[np.uint8]:
    """Double SHA-256 of each header: (n, 32) uint8."""
    rows = np.ascontiguousarray(headers).view(np.uint8).reshape(-1, 80)
    hashes: NDArray[np.uint8] = sha256_rows(sha256_rows(rows))
    return hashes


def meets_target(headers: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether each header's hash, as a little-endian integer, is at most the target of its own bits."""
    hashes = header_hashes(headers)
    targets, where = _targets(headers["bits"])
    left, right = hashes.view("<u8")[:, 3], targets.view("<u8")[:, 3][where]
    met = left < right
    tie = np.flatnonzero(left == right)
    if len(tie):  # the lower words decide
        met[tie] = at_most(hashes[tie], targets[where[tie]])
    return met


def at_most(hashes: NDArray[np.uint8], targets: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Whether each hash (n, 32) is at most its target (n, 8), both as little-endian integers."""
    left, right = hashes.view("<u8"), targets.view("<u8")
    met = np.ones(len(left), np.bool_)
    for word in range(4):  # from the least significant up: a higher word overrules what lower ones said
        met = np.where(left[:, word] == right[:, word], met, left[:, word] < right[:, word])
    return met


def with_counters(headers: NDArray[Any], counters: NDArray[np.uint64], rolls: int) -> NDArray[Any]:
    """A copy of the headers as the counters of a search leave them: nonce and rolled version bits set."""
    found = np.array(headers)
    found["nonce"] = counters // np.uint64(rolls)
    rolled = (counters % np.uint64(rolls)).astype(np.uint32) << np.uint32(ROLL_SHIFT)
    found["version"] = (found["version"] & np.uint32(0xFFFFFFFF ^ ROLL_MASK)) | rolled
    return found


# -- what is said, and what is found ------------------------------------------------------------------


def merkle_root(manifest: bytes, extranonce: int = 0) -> bytes:
    """``HH(manifest ‖ u64 extranonce)``: what a block with only a coinbase has. Raises FormatError for an
    extranonce that is not from 0 to 2^63−1."""
    return sha256d(manifest, _extranonce(extranonce))


def unmined(prev: bytes, manifest: bytes, bits: int) -> bytes:
    """The header (80 bytes) of a block that is built and not mined: time, nonce and rolled bits are zero."""
    return struct.pack("<I32s32sIII", VERSION, prev, merkle_root(manifest), 0, bits, 0)


def link_of(prev: bytes, manifest: bytes, bits: int) -> bytes:
    """The block's link, 32 bytes: ``HH`` of its unmined header, known as soon as the block is built."""
    return sha256d(unmined(prev, manifest, bits))


def seal_of(previous_seal: bytes, link: bytes, header: bytes, extranonce: int) -> bytes:
    """``H(0x02 ‖ previous seal ‖ link ‖ header as mined ‖ u64 extranonce)``, 32 bytes. Raises FormatError
    for an extranonce that is not from 0 to 2^63−1."""
    return sha256(b"\x02", previous_seal, link, header, _extranonce(extranonce))


def merkle_roots(manifests: Any, extranonces: NDArray[np.int64]) -> NDArray[np.uint8]:
    """:func:`merkle_root` of many: (n, 32) uint8.

    manifests: Arrow array of n binary values; extranonces: (n,) int64, none of them negative
    """
    numbers = integers(pa.array(extranonces, pa.int64()))
    hashes: NDArray[np.uint8] = sha256_rows(sha256_joined(len(manifests), values(manifests, 0), numbers))
    return hashes


def links_of(
    prevs: NDArray[np.uint8], roots: NDArray[np.uint8], bits: NDArray[np.uint32]
) -> NDArray[np.uint8]:
    """:func:`link_of` many blocks: (n, 32) uint8.

    prevs: (n, 32) uint8; roots: (n, 32) uint8, each block's merkle root for an extranonce of 0; bits: (n,)
    """
    headers = np.zeros(len(prevs), HEADER)
    headers["version"], headers["prev"], headers["merkle_root"], headers["bits"] = VERSION, prevs, roots, bits
    return header_hashes(headers)


def seals_of(
    previous_seal: bytes, links: NDArray[np.uint8], headers: NDArray[Any], extranonces: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """:func:`seal_of` consecutive blocks, each on the one before: (n, 32) uint8.

    previous_seal: of the block below the first; links: (n, 32) uint8; headers: (n,); extranonces: (n,) int64,
    none of them negative
    """
    seals: NDArray[np.uint8] = chain_seals(previous_seal, links, headers, extranonces)
    return seals


def _extranonce(extranonce: int) -> bytes:
    if not 0 <= extranonce <= MAX_EXTRANONCE:
        raise FormatError(f"{extranonce} is not an extranonce from 0 to 2^63-1")
    return struct.pack(">Q", extranonce)
