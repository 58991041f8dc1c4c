"""What a device answered, held against what it was asked. Nothing that a device says is believed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventchain.contracts.backend import NONCES, Solutions, Work
from eventchain.errors import BackendError
from eventchain.formats.header import meets_target, with_counters


@dataclass(frozen=True, slots=True)
class Checked:
    """Solutions that are known to be right.

    index: (m,) uint32, which header of the work; counter: (m,) uint64; headers: (m,) ``HEADER`` as mined
    hashes: how many the device had to try to be able to say so
    """

    index: NDArray[np.uint32]
    counter: NDArray[np.uint64]
    headers: NDArray[Any]
    hashes: int


def check(work: Work, solutions: Solutions) -> Checked:
    """Re-check an answer on the host. Raises BackendError (the reason alone, without the device's name)
    when any part of it is wrong: then none of it is used."""
    # Copies, so that what is used later is what was checked even when the device reuses its buffers.
    try:
        index, counter = np.array(solutions.index), np.array(solutions.counter)
    except Exception as error:  # whatever it was that came back, it was no answer
        raise BackendError(f"no solutions but {type(solutions).__name__} came back") from error
    if index.dtype != np.uint32 or counter.dtype != np.uint64:
        raise BackendError(f"solutions are {index.dtype} and {counter.dtype}, not uint32 and uint64")
    if index.ndim != 1 or index.shape != counter.shape:
        raise BackendError(f"solutions have the shapes {index.shape} and {counter.shape}")
    if not len(index):
        headers = work.headers[:0].copy()
    else:
        if int(index.max()) >= len(work.headers):
            raise BackendError(f"header {index.max()} of {len(work.headers)} is said to be solved")
        if np.bincount(index, minlength=1).max() > 1:
            raise BackendError("a header is said to be solved twice in one answer")
        start = work.start[index]
        # As a distance from the start, which cannot wrap round 2**64 as start + count can.
        outside = (counter < start) | (counter >= work.rolls * NONCES)
        outside |= counter - start >= work.count
        if outside.any():
            raise BackendError(f"counter {counter[outside][0]} was not asked for")
        headers = with_counters(work.headers[index], counter, work.rolls)
        wrong = ~meets_target(headers)
        if wrong.any():
            raise BackendError(f"counter {counter[wrong][0]} does not meet its header's target")
    return Checked(index, counter, headers, _tried(work, index, counter))


def _tried(work: Work, index: NDArray[np.uint32], counter: NDArray[np.uint64]) -> int:
    """Counters up to each hit, all of the range where there is none."""
    space = np.uint64(work.rolls * NONCES)
    ranges = np.minimum(space - np.minimum(work.start, space), np.uint64(min(work.count, int(space))))
    ranges[index] = counter - work.start[index] + np.uint64(1)
    return int(ranges.sum())
