"""Work cut into jobs for kernels, and hits turned back. Backends whose kernels take jobs (cpu, opencl, cuda)
share this module.

A job is one header with a run of its rolled versions, and a range of nonces to try with each of them. A
kernel makes what it needs of a job once: the *midstate* of every version (SHA-256's state after the header's
first 64 bytes, where the version stands). The header's second block is the same for all of them but for the
nonce, and so is its message schedule: a kernel expands it once for a nonce and uses it for every midstate.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventchain.contracts.backend import NONCES, Solutions, Work
from eventchain.formats.header import HEADER, target_words

JOB = np.dtype(
    [
        ("header", HEADER),  # as in the work; version bits and nonce are to be overwritten
        ("target", "<u4", (8,)),  # little-endian words: word 7 is the most significant
        ("first", "<u4"),  # first nonce to try
        ("index", "<u4"),  # of the header in the work
        ("roll", "<u4"),  # the first of the rolled versions
        ("rolls", "<u4"),  # of the work: nonce · rolls + roll is the counter
        ("count", "<u8"),  # how many nonces to try, 1 to 2**32; first + count never exceeds 2**32
        ("begin", "<u8"),  # hits with a counter below this one do not count,
        ("end", "<u8"),  # nor those with this one or a higher one
    ]
)
"""One job, 152 bytes without gaps: a C struct of ``u32[32]`` and three ``u64``. How many versions belong to a
job, ``versions``, is the kernel's and the same in all; they are ``roll`` and the ones after it."""

assert JOB.itemsize == 152
assert JOB.fields is not None
assert JOB.fields["count"][1] == 128


def versions_a_job(rolls: int, most: int) -> int:
    """How many versions a kernel that can share a schedule among ``most`` takes at a time, both powers of
    two: all of ``most``, or one where the work rolls fewer."""
    return most if rolls >= most else 1


def expand(
    work: Work, wanted: NDArray[np.bool_], *, hashes: int, jobs: int = 2**16, versions: int = 1
) -> Iterator[NDArray[Any]]:
    """Chunks of jobs that cover the work, in the order in which they should be searched.

    wanted: (n,) bool, which headers still want a solution. It is read again before every chunk: a caller
        clears what it has solved, and no more jobs are made for it.
    hashes: about how many hashes a chunk may hold (an upper bound unless there are more jobs than that).
    jobs: the most jobs in a chunk; 152 bytes each.
    versions: of a job, a power of two and at most ``work.rolls``.

    Yields arrays (m,) of :data:`JOB`, 1 ≤ m ≤ ``jobs``, read-only for the caller's kernels. Every counter of
    a wanted header is in exactly one job. Raises FormatError for bits that are no compact target.
    """
    targets = target_words(work.headers["bits"])
    # Counters in runs of ``versions``; where a header's first or last run is cut, its job says so.
    start, size = work.start // np.uint64(versions), np.uint64(versions)
    rolls, end = work.rolls // versions, work.rolls // versions * NONCES
    wanted &= start < end
    within = int((work.start % size).max(initial=0))
    count = min(-(-(within + work.count) // versions), end) if work.count else 0
    done = 0
    while done < count:
        # A window: the next runs of every header, as many as fill a chunk.
        alive = int(np.count_nonzero(wanted & (start < end - done)))
        if not alive:
            return
        nonces = max(1, hashes // versions // min(alive * min(rolls, count - done), jobs))
        window = min(nonces * rolls, count - done)
        lanes = min(rolls, window)  # runs of versions that this window touches
        lane = 0
        while lane < lanes:
            open_headers = np.flatnonzero(wanted & (start < end - done))
            if not len(open_headers):
                return
            # Few versions of all headers before more of one: what is easy falls out early.
            width = min(max(1, jobs // len(open_headers)), lanes - lane)
            height = max(1, jobs // width)
            for at in range(0, len(open_headers), height):
                group = open_headers[at : at + height]
                group = group[wanted[group]]
                chunk = _jobs(work, targets, group, start, done + lane, width, window - lane, versions)
                if len(chunk):
                    yield chunk
            lane += width
        done += window


def _jobs(
    work: Work,
    targets: NDArray[np.uint32],
    group: NDArray[np.intp],
    start: NDArray[np.uint64],
    offset: int,
    width: int,
    span: int,
    versions: int,
) -> NDArray[Any]:
    """Jobs for runs ``start + offset + lane + k·rolls`` with lane < width and lane + k·rolls < span, where
    rolls are the runs that a nonce has."""
    rolls = np.uint64(work.rolls // versions)
    lane = np.tile(np.arange(width, dtype=np.uint64), len(group))
    index = np.repeat(group, width)
    run = start[index] + np.uint64(offset) + lane
    nonce, roll = run // rolls, run & (rolls - np.uint64(1))  # rolls is a power of two
    count = (np.uint64(span) - lane + rolls - np.uint64(1)) // rolls
    inside = nonce < NONCES
    if not inside.all():
        index, nonce, roll, count = index[inside], nonce[inside], roll[inside], count[inside]

    limit = work.rolls * NONCES
    out = np.zeros(len(index), JOB)
    out["header"] = work.headers.take(index)
    out["target"] = targets.take(index, axis=0)
    out["first"], out["index"] = nonce, index
    out["roll"], out["rolls"] = roll * np.uint64(versions), work.rolls
    out["count"] = np.minimum(count, np.uint64(NONCES) - nonce)
    out["begin"] = begin = work.start[index]
    out["end"] = begin + np.minimum(np.uint64(limit) - begin, np.uint64(min(work.count, limit)))
    return out


def solutions(
    header: NDArray[np.uint32], roll: NDArray[np.uint32], nonce: NDArray[np.uint32], rolls: int
) -> Solutions:
    """Hits, equally long arrays in any order, as :class:`Solutions`: the lowest counter of each header."""
    counter = nonce.astype(np.uint64) * np.uint64(rolls) + roll.astype(np.uint64)
    order = np.lexsort((counter, header))
    index, first = np.unique(header[order].astype(np.uint32), return_index=True)
    return Solutions(index, counter[order][first])
