"""Events to leaves: what exactly is hashed of an event.

    field(x)   = u64(length of x) ‖ x ;  of null: u64(2^64−1)
    commitment = H(0x03 ‖ salt16 ‖ field(data) ‖ field(metadata))
    entry      = "eventchain/1\\n" ‖ u64(position) ‖ i64(version) ‖ i64(time)
                 ‖ u32(len) stream ‖ u32(len) id ‖ u32(len) type ‖ commitment
    leaf       = H(0x00 ‖ entry)                                           (RFC 6962 leaf hash)

All integers are big-endian. Messages are laid out by Arrow, column by column, and hashed in one call: no
Python object for an event. The salted commitment lets a payload be erased (with its salt) while the leaf
and everything above it stays as it is.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from eventchain.errors import FormatError
from eventchain.formats.hashing import sha256_spans

MAGIC = b"eventchain/1\n"
MAX_ENTRY = 65_535
SALT = 16
_FIXED = len(MAGIC) + 3 * 8 + 3 * 4 + 32  # an entry's bytes beside stream, id and type

_HEAD = np.dtype(
    [("magic", f"S{len(MAGIC)}"), ("position", ">i8"), ("version", ">i8"), ("time", ">i8"), ("length", ">u4")]
)
_SALTED = np.dtype([("salt", "u1", (SALT,)), ("length", ">u8")])


def new_salts(count: int) -> NDArray[np.uint8]:
    """Salts from the operating system's CSPRNG: (count, 16) uint8."""
    return np.frombuffer(os.urandom(SALT * count), np.uint8).reshape(count, SALT)


def commitments(batch: Any, salts: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The salted commitment to each event's data and metadata: (n, 32) uint8.

    batch: Arrow batch of EVENT_SCHEMA, n rows; salts: (n, 16) uint8.
    """
    salted = np.empty(batch.num_rows, _SALTED)
    salted["salt"] = salts
    salted["length"] = _lengths(batch["data"])
    return _hashed(
        b"\x03",
        _rows(salted),
        _payload(batch["data"]),
        _rows(_lengths(batch["metadata"]).astype(">u8")),
        _payload(batch["metadata"]),
    )


def entry_leaves(batch: Any, commitment: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Leaf hashes of events whose commitments are known (as after an erasure): (n, 32) uint8.

    Raises FormatError for an event whose entry is longer than 65,535 bytes.
    """
    lengths = [_lengths(batch[name]) for name in ("stream", "id", "type")]
    total = lengths[0] + lengths[1] + lengths[2] + np.uint64(_FIXED)
    if len(total) and int(total.max()) > MAX_ENTRY:
        row = int(total.argmax())
        raise FormatError(
            f"the event at position {batch['position'][row].as_py()} makes an entry of {int(total[row])} "
            f"bytes with its stream, id and type; at most {MAX_ENTRY} are allowed",
            hint="shorten the event's stream, id or type; data and metadata may be of any length",
        )
    head = np.empty(batch.num_rows, _HEAD)
    head["magic"] = MAGIC
    for name in ("position", "version", "time"):
        head[name] = batch[name].to_numpy()
    head["length"] = lengths[0]
    return _hashed(
        b"\x00",
        _rows(head),
        _payload(batch["stream"]),
        _rows(lengths[1].astype(">u4")),
        _payload(batch["id"]),
        _rows(lengths[2].astype(">u4")),
        _payload(batch["type"]),
        _rows(np.ascontiguousarray(commitment)),
    )


def leaf_hashes(batch: Any, salts: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The leaf of each event: (n, 32) uint8. Raises FormatError as :func:`entry_leaves` does."""
    return entry_leaves(batch, commitments(batch, salts))


# -- Arrow columns of message parts -------------------------------------------------------------------


def _lengths(column: Any) -> NDArray[np.uint64]:
    """Bytes in each value as uint64, 2^64−1 for null."""
    lengths = pc.binary_length(column)
    known: NDArray[np.uint64] = pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False).astype(np.uint64)
    if column.null_count:
        known[column.is_null().to_numpy(zero_copy_only=False)] = np.uint64(2**64 - 1)
    return known


def _payload(column: Any) -> Any:
    """A string or binary column as large_binary (a batch may hold more than 2 GiB), null as empty."""
    if pa.types.is_string(column.type):
        column = column.view(pa.binary())
    column = column.cast(pa.large_binary())
    return column.fill_null(b"") if column.null_count else column


def _rows(rows: NDArray[Any]) -> Any:
    """The rows of a C-contiguous array as values of a large_binary column, without a copy."""
    count = len(rows)
    width = rows.nbytes // count if count else 0
    offsets = np.arange(count + 1, dtype=np.int64) * width
    raw = rows.reshape(-1).view(np.uint8)
    return pa.Array.from_buffers(pa.large_binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(raw)])


def _hashed(prefix: bytes, *parts: Any) -> NDArray[np.uint8]:
    """SHA-256 of ``prefix ‖ part ‖ part …`` for each row."""
    joined = pc.binary_join_element_wise(*parts, pa.scalar(b"", pa.large_binary()))
    _, offsets, data = joined.buffers()
    where = np.frombuffer(offsets, np.int64, joined.offset + len(joined) + 1)[joined.offset :]
    digests: NDArray[np.uint8] = sha256_spans(
        np.frombuffer(data if data is not None else b"", np.uint8), where, prefix
    )
    return digests
