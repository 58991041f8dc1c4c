"""SHA-256 on this CPU: over many messages at once, and the search of nonces.

The code is generated and compiled for the CPU through LLVM (see :mod:`.jit`), with x86's SHA instructions
where it has them. The first call of each function on a host takes a second or so; later ones, in any
process, find the machine code in the cache. Large inputs are worked on by all cores; the calling thread
waits, and other Python threads run meanwhile.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eventchain_kernels.native import jit

MIN_SHARE = 2048
"""Messages that are worth handing to another thread."""
MIN_PART, MAX_PART = 2**12, 2**18
"""Nonces that one thread takes at a time: under a millisecond to some ten milliseconds."""
FASTEST_HASHING = ("sha", "avx512", "avx2", "generic")
FASTEST_SEARCH = ("avx512", "sha", "avx2", "generic")
FASTEST_CHAIN = ("sha", "avx512", "avx2", "generic")
"""In order of speed, on every CPU that has them."""


class Column(NamedTuple):
    """A value for each message, as Arrow keeps them: integers, or bytes with their lengths before them.

    data, offsets, valid: addresses of Arrow's buffers; integers (int64, written big-endian) have no offsets,
        and valid is 0 where no value is null
    offset_size: bytes of an offset, 4 or 8
    first: index of the first value in these buffers
    field: bytes of the big-endian length before each value, 0, 4 or 8; a null has a length of all ones
    owner: what keeps the memory alive
    """

    data: int
    offsets: int = 0
    offset_size: int = 8
    valid: int = 0
    first: int = 0
    field: int = 8
    owner: Any = None


Part = bytes | Column | NDArray[Any]
"""A part of n messages: the same bytes in all, a value for each, or a row for each of an array (n, ...)."""


def sha256_joined(
    count: int, *parts: Part, lengths: NDArray[np.int64] | None = None, padded: bool = True
) -> NDArray[np.uint8]:
    """SHA-256 of ``count`` messages, each joined from its parts: (count, 32) uint8.

    lengths: (count,) int64, C-contiguous, set to the messages' lengths in bytes
    padded: without, messages are whole blocks and the result is the state after the last one
    """
    out = np.empty((count, 32), np.uint8)
    if not count:
        return out
    run = _hash_joined()
    described, owners = zip(*[_described(part, count) for part in parts], strict=True)
    table = array("q", chain.from_iterable(described))
    where = table.buffer_info()[0], len(parts)
    results = int(padded), _address(out), 0 if lengths is None else _address(lengths)

    def work(first: int, stop: int) -> None:
        run(*where, first, stop, *results)

    if count < 2 * MIN_SHARE or cores() < 2:
        work(0, count)
    else:
        shares = min(4 * cores(), count // MIN_SHARE)
        bounds = [count * i // shares for i in range(shares + 1)]
        _in_threads([partial(work, a, b) for a, b in pairwise(bounds)])
    del owners  # until now they kept alive what was hashed
    return out


def sha256_rows(rows: NDArray[np.uint8], prefix: bytes = b"") -> NDArray[np.uint8]:
    """SHA-256 of ``prefix ‖ row`` for each row of ``rows`` (n, length) uint8: (n, 32) uint8."""
    if rows.ndim != 2 or rows.dtype != np.uint8:
        raise ValueError("rows must be a uint8 array of two dimensions")
    return sha256_joined(len(rows), prefix, rows)


def compress_rows(blocks: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """State after one SHA-256 compression of each block (n, 64) uint8 from the initial state, as native
    integers: (n, 8) uint32. The midstate of a header is that of its first 64 bytes."""
    if blocks.ndim != 2 or blocks.shape[1] != 64 or blocks.dtype != np.uint8:
        raise ValueError("blocks must be a uint8 array of shape (n, 64)")
    state = sha256_joined(len(blocks), blocks, padded=False)
    return state.view(">u4").astype(np.uint32)


def chain_seals(
    previous: bytes,
    links: NDArray[np.uint8],
    headers: NDArray[Any],
    extranonces: NDArray[np.int64],
) -> NDArray[np.uint8]:
    """The seals of consecutive blocks, ``H(0x02 ‖ seal before ‖ link ‖ header ‖ u64 extranonce)``: (n, 32)
    uint8.

    previous: the seal below the first, 32 bytes; links: (n, 32) uint8; headers: (n,), of 80 bytes each;
    extranonces: (n,) int64
    """
    count = len(headers)
    sizes = [32 * count, 80 * count, 8 * count]
    parts = [np.ascontiguousarray(part) for part in (links, headers, extranonces)]
    if len(previous) != 32 or [part.nbytes for part in parts] != sizes:
        raise ValueError("a seal of 32 bytes is needed, and for each header a link and an extranonce")
    out = np.empty((count, 32), np.uint8)
    below = np.frombuffer(previous, np.uint8)
    run = jit.function("chain_seals", next(name for name in FASTEST_CHAIN if name in jit.variants()))
    run(_address(below), *map(_address, parts), count, _address(out))
    return out


def search_jobs(jobs: NDArray[Any], solved: NDArray[np.uint8], *, variant: str = "") -> NDArray[np.int64]:
    """Search the nonces of jobs (m,) of ``eventchain.mining.jobs.JOB``: (m,) int64, each job's hit or −1.

    solved: (n,) uint8 for the headers that the jobs name: jobs of a header that is not 0 are passed over,
        and a hit sets it to 1.
    variant: one of :func:`search_variants`, the fastest by default.
    """
    run = jit.function("search_jobs", variant or search_variants()[0])
    found = np.full(len(jobs), -1, np.int64)
    if not len(jobs):
        return found
    # Threads share the work in parts, and look at ``solved`` between them.
    total = int(jobs["count"].sum())
    part = min(max(total // (16 * cores()), MIN_PART), MAX_PART)
    parts = -(-int(jobs["count"].max()) // part)
    stop = parts * len(jobs)
    following = np.zeros(1, np.int64)

    def work() -> None:
        run(
            jobs.ctypes.data, len(jobs), stop, part,
            following.ctypes.data, solved.ctypes.data, found.ctypes.data,
        )  # fmt: skip

    threads = min(cores(), stop) if total > MIN_PART else 1
    _in_threads([work] * threads)
    return found


def search_variants() -> list[str]:
    """The variants of the search that this CPU can run, fastest first."""
    return [name for name in FASTEST_SEARCH if name in jit.variants()]


def hashing_variant() -> str:
    """The fastest variant of hashing that this CPU can run."""
    return next(name for name in FASTEST_HASHING if name in jit.variants())


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _hash_joined() -> Callable[..., None]:
    return jit.function("hash_joined", hashing_variant())


def _described(part: Part, count: int) -> tuple[tuple[int, ...], Any]:
    """A part as ``hash_batch`` wants it, and what must stay alive for it."""
    if isinstance(part, bytes):
        part = np.frombuffer(part or b"\0", np.uint8)[: len(part)]
        return (_address(part), 0, part.nbytes, 0, 0, 0, 0, 0, 0), part
    if isinstance(part, Column):
        data, offsets, offset_size, valid, first, field, _ = part
        if not offsets:
            return (data + 8 * first, 8, 0, 0, 0, 0, 0, 8, 0), part
        return (data, 0, 0, offsets, offset_size, valid, first, field, 64 - 8 * field & 63), part
    if len(part) != count:
        raise ValueError(f"{len(part)} rows are given for {count} messages")
    if not part.flags.c_contiguous and not part[0].flags.c_contiguous:
        part = np.ascontiguousarray(part)
    return (_address(part), part.strides[0], part.nbytes // count, 0, 0, 0, 0, 0, 0), part


def _address(values: NDArray[Any]) -> int:
    return int(values.__array_interface__["data"][0])  # as values.ctypes.data, in less time


def _in_threads(tasks: list[Callable[[], None]]) -> None:
    if len(tasks) == 1:
        tasks[0]()
    else:
        for future in [_pool().submit(task) for task in tasks]:
            future.result()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), thread_name_prefix="eventchain-native")


if hasattr(os, "register_at_fork"):  # a forked child has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
