"""SHA-256 on this CPU: over many messages at once, and the search of nonces.

The code is generated and compiled for the CPU through LLVM (see :mod:`.jit`), with x86's SHA instructions
where it has them. The first call of each function on a host takes a second or so; later ones, in any
process, find the machine code in the cache. Large inputs are worked on by all cores; the calling thread
waits, and other Python threads run meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventchain_kernels.native import jit

MIN_SHARE = 2048
"""Messages that are worth handing to another thread."""
MIN_PART, MAX_PART = 2**12, 2**18
"""Nonces that one thread takes at a time: under a millisecond to some ten milliseconds."""
FASTEST_HASHING = ("sha", "avx512", "avx2", "generic")
FASTEST_SEARCH = ("avx512", "sha", "avx2", "generic")
"""In order of speed, on every CPU that has them."""


def sha256_rows(rows: NDArray[np.uint8], prefix: bytes = b"") -> NDArray[np.uint8]:
    """SHA-256 of ``prefix ‖ row`` for each row of ``rows`` (n, length) uint8: (n, 32) uint8."""
    if rows.ndim != 2 or rows.dtype != np.uint8:
        raise ValueError("rows must be a uint8 array of two dimensions")
    n, length = rows.shape
    data = np.ascontiguousarray(rows).reshape(-1)
    return _hash(data, np.arange(n + 1, dtype=np.int64) * length, prefix, padded=True)


def sha256_spans(data: NDArray[np.uint8], offsets: NDArray[Any], prefix: bytes = b"") -> NDArray[np.uint8]:
    """SHA-256 of ``prefix ‖ data[offsets[i]:offsets[i + 1]]`` for each i < n: (n, 32) uint8.

    data: uint8, one dimension; offsets: (n + 1,) int32 or int64, never falling, within the data. These are
    the buffers of an Arrow binary or string array (whose offsets need not begin at 0).
    """
    if data.ndim != 1 or data.dtype != np.uint8:
        raise ValueError("data must be a uint8 array of one dimension")
    if offsets.ndim != 1 or not len(offsets) or offsets.dtype not in (np.dtype(np.int32), np.dtype(np.int64)):
        raise ValueError("offsets must be an int32 or int64 array of one dimension with at least one entry")
    if offsets[0] < 0 or offsets[-1] > len(data) or bool(np.any(offsets[1:] < offsets[:-1])):
        raise ValueError("offsets must never fall and must lie within the data")
    return _hash(np.ascontiguousarray(data), offsets.astype(np.int64), prefix, padded=True)


def compress_rows(blocks: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """State after one SHA-256 compression of each block (n, 64) uint8 from the initial state, as native
    integers: (n, 8) uint32. The midstate of a header is that of its first 64 bytes."""
    if blocks.ndim != 2 or blocks.shape[1] != 64 or blocks.dtype != np.uint8:
        raise ValueError("blocks must be a uint8 array of shape (n, 64)")
    data = np.ascontiguousarray(blocks).reshape(-1)
    state = _hash(data, np.arange(len(blocks) + 1, dtype=np.int64) * 64, b"", padded=False)
    return state.view(">u4").astype(np.uint32)


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


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _hash(
    data: NDArray[np.uint8], offsets: NDArray[np.int64], prefix: bytes, *, padded: bool
) -> NDArray[np.uint8]:
    n = len(offsets) - 1
    out = np.empty((n, 32), np.uint8)
    if not n:
        return out
    run = jit.function("hash_spans", next(name for name in FASTEST_HASHING if name in jit.variants()))
    start = np.frombuffer(prefix or b"\0", np.uint8)

    def work(first: int, stop: int) -> None:
        run(
            data.ctypes.data, offsets.ctypes.data, first, stop,
            start.ctypes.data, len(prefix), int(padded), out.ctypes.data,
        )  # fmt: skip

    shares = max(min(4 * cores(), n // MIN_SHARE), 1) if cores() > 1 else 1
    bounds = [n * i // shares for i in range(shares + 1)]
    _in_threads([partial(work, a, b) for a, b in pairwise(bounds)])
    return out


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
