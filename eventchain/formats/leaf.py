"""Events to leaves: what exactly is hashed of an event.

    field(x)   = u64(length of x) ‖ x ;  of null: u64(2^64−1)
    commitment = H(0x03 ‖ salt16 ‖ field(data) ‖ field(metadata))
    entry      = "eventchain/1\\n" ‖ u64(position) ‖ i64(version) ‖ i64(time)
                 ‖ u32(len) stream ‖ u32(len) id ‖ u32(len) type ‖ commitment
    leaf       = H(0x00 ‖ entry)                                           (RFC 6962 leaf hash)

All integers are big-endian. Messages are hashed straight from Arrow's columns, all of a batch in one call: no
Python object for an event, no copy of the batch. The salted commitment lets a payload be erased (with its
salt) while the leaf and everything above it stays as it is.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventchain.errors import FormatError
from eventchain.formats.hashing import Digests, integers, sha256_joined, values

MAGIC = b"eventchain/1\n"
MAX_ENTRY = 65_535
SALT = 16
LONG = 4096
"""Bytes of an event, on average, from which on each is hashed alone."""
NULL = bytes([255] * 8)
"""The length that stands for null."""


def new_salts(count: int) -> NDArray[np.uint8]:
    """Salts from the operating system's CSPRNG: (count, 16) uint8."""
    return np.frombuffer(os.urandom(SALT * count), np.uint8).reshape(count, SALT)


def commitments(batch: Any, salts: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The salted commitment to each event's data and metadata: (n, 32) uint8.

    batch: Arrow batch of EVENT_SCHEMA, n rows; salts: (n, 16) uint8.
    """
    if batch.nbytes >= LONG * max(1, batch.num_rows):
        return _one_by_one(batch, salts)
    return sha256_joined(batch.num_rows, *_committed(batch, salts))


def _one_by_one(batch: Any, salts: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Commitments to payloads that are long, as states of projections are: OpenSSL has instructions for a
    single message, which 16 at once do not outrun."""
    found = np.empty((batch.num_rows, 32), np.uint8)
    for row in range(batch.num_rows):
        digest = hashlib.sha256(b"\x03" + salts[row].tobytes())
        for name in ("data", "metadata"):
            value = batch[name][row]
            payload = value.as_buffer() if value.is_valid else b""
            digest.update(len(payload).to_bytes(8, "big") if value.is_valid else NULL)
            digest.update(payload)
        found[row] = np.frombuffer(digest.digest(), np.uint8)
    return found


def _committed(batch: Any, salts: NDArray[np.uint8]) -> tuple[Any, ...]:
    return b"\x03", salts, values(batch["data"], 8), values(batch["metadata"], 8)


def entry_leaves(batch: Any, commitment: NDArray[np.uint8] | Digests) -> NDArray[np.uint8]:
    """Leaf hashes of events whose commitments are known (as after an erasure): (n, 32) uint8.

    Raises FormatError for an event whose entry is longer than 65,535 bytes.
    """
    position, version, time = (integers(batch[name]) for name in ("position", "version", "time"))
    stream, id_, type_ = (values(batch[name], 4) for name in ("stream", "id", "type"))
    entry = position, version, time, stream, id_, type_, commitment
    longest = np.empty(2, np.int64)
    hashes = sha256_joined(batch.num_rows, b"\x00" + MAGIC, *entry, longest=longest)
    length, row = longest.tolist()
    length -= 1  # the byte 0x00
    if length > MAX_ENTRY:
        where = batch["position"][row].as_py()
        raise FormatError(
            f"the event at position {where} makes an entry of {length} bytes with its stream, id and "
            f"type; at most {MAX_ENTRY} are allowed",
            hint="shorten the event's stream, id or type; data and metadata may be of any length",
        )
    return hashes


def leaf_hashes(batch: Any, salts: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The leaf of each event: (n, 32) uint8. Raises FormatError as :func:`entry_leaves` does."""
    if batch.nbytes >= LONG * max(1, batch.num_rows):
        return entry_leaves(batch, _one_by_one(batch, salts))
    return entry_leaves(batch, Digests(_committed(batch, salts)))
