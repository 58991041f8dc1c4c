"""SHA-256 on this CPU: over many messages at once, and the search of nonces.

The code is generated and compiled for the CPU through LLVM (see :mod:`.jit`), with AVX-512 or x86's SHA
instructions where it has them. The first call of each function on a host takes up to a second; later ones, in
any process, find the machine code in the cache. Large inputs are worked on by all cores, and other Python
threads run meanwhile.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eventchain_kernels.native import jit

ROW, INTEGER, VALUE_32, VALUE_64, END = range(5)  # kinds of parts, as in hash_batch
MIN_SHARE, MIN_PAIRS = 2**11, 2**13
"""Messages, and pairs of Merkle nodes, that are worth handing to another thread."""
MIN_PART, MAX_PART = 2**12, 2**18
"""Hashes that one thread takes at a time: under a millisecond to some ten milliseconds."""
FASTEST_HASHING = ("avx512", "sha", "avx2", "generic")
FASTEST_SEARCH = ("avx512", "sha", "avx2", "generic")
FASTEST_CHAIN = ("sha", "avx512", "avx2", "generic")
"""In order of speed, on every CPU that has them. A compression takes AVX-512 25 clocks at least with four
operations of 512 bits a clock (Zen 5), 51 with two (Zen 4, Intel); the SHA instructions 64. A chain is one
message after the other, which only the SHA instructions do faster."""


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


class Digests(NamedTuple):
    """The SHA-256 of another message, joined from these parts."""

    parts: tuple[Part, ...]


Part = bytes | Column | NDArray[Any] | Digests
"""A part of n messages: the same bytes in all, a value for each, a row for each of an array (n, ...), or (one
at most) a digest of parts of its own."""


def sha256_joined(
    count: int, *parts: Part, longest: NDArray[np.int64] | None = None, padded: bool = True
) -> NDArray[np.uint8]:
    """SHA-256 of ``count`` messages, each joined from its parts: (count, 32) uint8.

    longest: (2,) int64, set to the length in bytes of a longest message and its index
    padded: without, messages are whole blocks and the result is the state after the last one
    """
    out = np.empty((count, 32), np.uint8)
    run = _compiled("hash_joined")
    steps, owners = _planned(parts, count, out)
    found = np.zeros((max(-(-count // MIN_SHARE), 1), 2), np.int64)  # of each piece its longest

    results, lengths = _address(out), _address(found)

    def work(first: int, stop: int) -> None:
        place = lengths + 16 * (first // MIN_SHARE)
        for table in steps:
            run(table.buffer_info()[0], first, stop, int(padded), results, place)

    _in_pieces(work, count, MIN_SHARE)
    del owners  # until now they kept alive what was hashed
    if longest is not None:
        longest[:] = found[found[:, 0].argmax()]
    return out


def hash_levels(
    nodes: NDArray[np.uint8], before: int = 0, peaks: Mapping[int, bytes] | None = None, levels: int = 64
) -> list[NDArray[np.uint8]]:
    """The levels of a Merkle log above a run of its nodes, as far as they become complete by these: a list
    of (m, 32) uint8, from the level above up. A node is ``SHA-256(0x01 ‖ left ‖ right)``.

    nodes: (n, 32) uint8, the next ones of their level
    before: complete nodes that the log had of that level
    peaks: of the levels, counted from that of the nodes, where the log had an odd number, its last node
    levels: how many at most
    """
    if nodes.ndim != 2 or nodes.shape[1] != 32 or nodes.dtype != np.uint8:
        raise ValueError("nodes must be a uint8 array of shape (n, 32)")
    peaks = peaks or {}
    if before & 1:
        nodes = np.concatenate([np.frombuffer(peaks[0], np.uint8).reshape(1, 32), nodes])
    nodes = np.ascontiguousarray(nodes)
    counts: list[int] = []
    there = len(nodes)
    while there > 1 and len(counts) < levels:
        counts.append(there // 2)
        there = there // 2 + (before >> len(counts) & 1)
    # Each level lies behind a row for the peak that is paired with its first node.
    starts = list(accumulate((count + 1 for count in counts), initial=0))
    rows = np.empty((starts.pop(), 32), np.uint8)
    for level, start in enumerate(starts, 1):
        if before >> level & 1:
            rows[start] = np.frombuffer(peaks[level], np.uint8)
    run = _compiled("hash_levels")
    source, there, base = _address(nodes), len(nodes), _address(rows)
    for level, (start, count) in enumerate(zip(starts, counts, strict=True)):
        target = base + 32 * start
        if count < 2 * MIN_PAIRS:
            run(source, there, before >> level, target, levels - level)
            break
        _in_pieces(partial(_hash_pairs, run, source, target), count, MIN_PAIRS)
        odd = before >> level + 1 & 1
        source, there = target + 32 * (1 - odd), count + odd
    return [rows[start + 1 : start + 1 + count] for start, count in zip(starts, counts, strict=True)]


def _hash_pairs(run: Callable[..., None], source: int, target: int, first: int, stop: int) -> None:
    """Pairs ``first`` to ``stop`` of a level; ``target``: the row before the level above."""
    run(source + 64 * first, 2 * (stop - first), 0, target + 32 * first, 1)


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
def _compiled(name: str) -> Callable[..., None]:
    return jit.function(name, hashing_variant())


def _planned(parts: Sequence[Part], count: int, out: NDArray[np.uint8]) -> tuple[list[array[int]], list[Any]]:
    """Tables of parts for ``hash_batch``, in the order in which they are to be hashed, all into ``out``; and
    what must stay alive meanwhile."""
    table = array("q")
    steps: list[array[int]] = []
    owners: list[Any] = []
    for part in parts:
        if isinstance(part, Digests):  # they lie in the place of the message's own, until that is made
            if steps:
                raise ValueError("a message has one part at most that is a digest of others")
            steps, more = _planned(part.parts, count, out)
            owners += more
            part = out
        described, owner = _described(part, count)
        table.extend(described)
        owners.append(owner)
    table.extend((END, *[0] * 8))
    return [*steps, table], owners


def _described(part: bytes | Column | NDArray[Any], count: int) -> tuple[tuple[int, ...], Any]:
    """A part as ``hash_batch`` wants it, and what must stay alive for it."""
    if isinstance(part, bytes):
        part = np.frombuffer(part or b"\0", np.uint8)[: len(part)]
        return (ROW, _address(part), 0, part.nbytes, 0, 0, 0, 0, 0), part
    if isinstance(part, Column):
        data, offsets, offset_size, valid, first, field, _ = part
        if not offsets:
            return (INTEGER, data + 8 * first, 0, 0, 0, 0, 0, 0, 0), part
        kind = VALUE_32 if offset_size == 4 else VALUE_64
        place = offsets + offset_size * first
        return (kind, data, 0, 0, place, valid, first, field, 64 - 8 * field & 63), part
    if len(part) != count:
        raise ValueError(f"{len(part)} rows are given for {count} messages")
    if not part.flags.c_contiguous and len(part) and not part[0].flags.c_contiguous:
        part = np.ascontiguousarray(part)
    return (ROW, _address(part), part.strides[0], part.nbytes // max(count, 1), 0, 0, 0, 0, 0), part


def _address(values: NDArray[Any]) -> int:
    return int(values.__array_interface__["data"][0])  # as values.ctypes.data, in less time


def _in_pieces(work: Callable[[int, int], None], count: int, size: int) -> None:
    """``work(first, stop)`` for 0 to ``count``, ``size`` at a time, on all cores, this thread among them."""
    firsts = iter(range(0, count, size))  # each is handed out once: Python's global lock sees to it

    def take() -> None:
        for first in firsts:
            work(first, min(first + size, count))

    others = min(cores(), -(-count // size)) - 1
    futures = [_pool().submit(take) for _ in range(others)]
    try:
        take()
    finally:  # no one may still work on memory that the caller gives up
        for future in futures:
            future.result()


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
