"""What every kernel needs of a header, prepared once: work expanded into jobs, and hits turned back.

A job is one header with one value of the rolled version bits. All nonces of a job share the first SHA-256
block of the header, so it is compressed here, once, into the *midstate*; a kernel compresses only the
second block (``tail ‖ nonce ‖ padding``) and hashes the digest again. Backends whose kernels take jobs
(cpu, opencl, cuda) share this module.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from eventchain_kernels.native import compress_rows
from numpy.typing import NDArray

from eventchain.contracts.backend import NONCES, Solutions, Work
from eventchain.formats.header import ROLL_MASK, ROLL_SHIFT, target_words

JOB = np.dtype(
    [
        ("midstate", "<u4", (8,)),  # SHA-256 state after the header's first 64 bytes
        ("tail", "<u4", (3,)),  # words 0 to 2 of the second block: end of merkle_root, time, bits
        ("target", "<u4", (8,)),  # little-endian words: word 7 is the most significant
        ("first", "<u4"),  # first nonce to try
        ("header", "<u4"),  # index in the work
        ("roll", "<u4"),  # value of the rolled version bits, already in the midstate
        ("count", "<u8"),  # how many nonces to try, 1 to 2**32; first + count never exceeds 2**32
    ]
)
"""One job, 96 bytes without gaps: a C struct of ``u32[22]`` and a ``u64``. SHA-256 words are given as native
integers: a kernel puts ``nonce`` in as word 3 with its bytes swapped, and compares the byte-swapped word 7
of the double hash with ``target[7]`` first."""

assert JOB.itemsize == 96
assert JOB.fields is not None
assert JOB.fields["count"][1] == 88


def expand(
    work: Work, wanted: NDArray[np.bool_], *, hashes: int, jobs: int = 2**16
) -> Iterator[NDArray[Any]]:
    """Chunks of jobs that cover the work, in the order in which they should be searched.

    wanted: (n,) bool, which headers still want a solution. It is read again before every chunk: a caller
        clears what it has solved, and no more jobs are made for it.
    hashes: about how many hashes a chunk may hold (an upper bound unless there are more jobs than that).
    jobs: the most jobs in a chunk; 96 bytes each.

    Yields arrays (m,) of :data:`JOB`, 1 ≤ m ≤ ``jobs``, read-only for the caller's kernels. Every counter of
    a wanted header is in exactly one job. Raises FormatError for bits that are no compact target.
    """
    targets = target_words(work.headers["bits"])
    rolls, end = work.rolls, work.rolls * NONCES
    wanted &= work.start < end
    count = min(work.count, end)
    done = 0
    while done < count:
        # A window: the next counters of every header, as many as fill a chunk.
        alive = int(np.count_nonzero(wanted & (work.start < end - done)))
        if not alive:
            return
        nonces = max(1, hashes // min(alive * min(rolls, count - done), jobs))
        window = min(nonces * rolls, count - done)
        lanes = min(rolls, window)  # version values that this window touches
        lane = 0
        while lane < lanes:
            open_headers = np.flatnonzero(wanted & (work.start < end - done))
            if not len(open_headers):
                return
            # Few rolls of all headers before more rolls of one: what is easy falls out early.
            width = min(max(1, jobs // len(open_headers)), lanes - lane)
            height = max(1, jobs // width)
            for at in range(0, len(open_headers), height):
                group = open_headers[at : at + height]
                group = group[wanted[group]]
                chunk = _jobs(work, targets, group, done + lane, width, window - lane)
                if len(chunk):
                    yield chunk
            lane += width
        done += window


def _jobs(
    work: Work, targets: NDArray[np.uint32], group: NDArray[np.intp], offset: int, width: int, span: int
) -> NDArray[Any]:
    """Jobs for counters ``start + offset + lane + k·rolls`` with lane < width and lane + k·rolls < span."""
    rolls = np.uint64(work.rolls)
    lane = np.tile(np.arange(width, dtype=np.uint64), len(group))
    index = np.repeat(group, width)
    counter = work.start[index] + np.uint64(offset) + lane
    nonce, roll = counter // rolls, counter & (rolls - np.uint64(1))  # rolls is a power of two
    count = (np.uint64(span) - lane + rolls - np.uint64(1)) // rolls
    inside = nonce < NONCES
    if not inside.all():
        index, nonce, roll, count = index[inside], nonce[inside], roll[inside], count[inside]

    out = np.zeros(len(index), JOB)
    out["first"], out["header"], out["roll"] = nonce, index, roll
    out["count"] = np.minimum(count, np.uint64(NONCES) - nonce)
    out["target"] = targets.take(index, axis=0)
    # As bytes: numpy copies them in less than half the time that structures take.
    raw = work.headers.view(np.uint8).reshape(-1, 80).take(index, axis=0)
    version = raw[:, :4].view("<u4")[:, 0]
    version &= np.uint32(0xFFFFFFFF ^ ROLL_MASK)
    version |= roll.astype(np.uint32) << np.uint32(ROLL_SHIFT)
    out["midstate"] = compress_rows(raw[:, :64])
    out["tail"] = raw[:, 64:76].view(">u4")
    return out


def solutions(
    header: NDArray[np.uint32], roll: NDArray[np.uint32], nonce: NDArray[np.uint32], rolls: int
) -> Solutions:
    """Hits, equally long arrays in any order, as :class:`Solutions`: the lowest counter of each header."""
    counter = nonce.astype(np.uint64) * np.uint64(rolls) + roll.astype(np.uint64)
    order = np.lexsort((counter, header))
    index, first = np.unique(header[order].astype(np.uint32), return_index=True)
    return Solutions(index, counter[order][first])
