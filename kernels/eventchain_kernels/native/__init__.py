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
"""Hashes that one thread takes at a time: under a millisecond to some ten milliseconds."""
FASTEST_HASHING = ("sha", "avx512", "avx2", "generic")
FASTEST_SEARCH = ("avx512", "sha", "avx2", "generic")
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


def search_jobs(
    jobs: NDArray[Any], found: NDArray[np.int64], *, rolled: bool = False, variant: str = ""
) -> None:
    """Search jobs (m,) of ``eventchain.mining.jobs.JOB``.

    found: (n,) int64 for the headers that the jobs name: −1, or the counter of a hit, set where one is found.
        Jobs of a header that has one are passed over.
    rolled: each job has :func:`versions_at_a_time` of its header's versions; otherwise one
    variant: one of :func:`search_variants`, the fastest by default.
    """
    if not len(jobs):
        return
    run = jit.function("search_rolled" if rolled else "search_jobs", variant or search_variants()[0])
    # Threads share the work in parts, and look at ``found`` between them.
    versions = versions_at_a_time(rolled=rolled)
    total = int(jobs["count"].sum()) * versions
    part = max(min(max(total // (16 * cores()), MIN_PART), MAX_PART) // versions, 1)
    stop = -(-int(jobs["count"].max()) // part) * len(jobs)
    following = np.zeros(1, np.int64)

    def work() -> None:
        run(_address(jobs), len(jobs), stop, part, _address(following), _address(found))

    threads = min(cores(), stop) if total > MIN_PART else 1
    _in_threads([work] * threads)


def versions_at_a_time(*, rolled: bool = True) -> int:
    """Versions of a header in each job of :func:`search_jobs`."""
    return jit.VERSIONS["search_rolled" if rolled else "search_jobs"]


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
