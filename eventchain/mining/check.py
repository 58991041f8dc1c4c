"""What a device answered, held against what it was asked. Nothing that a device says is believed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventchain.contracts.backend import MAX_AHEAD, NONCES, Sealed, Solutions, Task, Work
from eventchain.errors import BackendError
from eventchain.formats.header import (
    HEADER,
    MAX_EXTRANONCE,
    ROLL_MASK,
    VERSION,
    meets_target,
    merkle_root,
    with_counters,
)


@dataclass(frozen=True, slots=True)
class Checked:
    """Solutions that are known to be right.

    index: (m,) uint32, which header of the work; counter: (m,) uint64; headers: (m,) ``HEADER`` as mined
    tried: (n,) uint64, of each header of the work how many the device had to try to be able to say so
    hashes: of all together, or fewer where the device says so
    """

    index: NDArray[np.uint32]
    counter: NDArray[np.uint64]
    headers: NDArray[Any]
    tried: NDArray[np.uint64]
    hashes: int


def check(work: Work, solutions: Solutions) -> Checked:
    """Re-check an answer on the host. Raises BackendError (the reason alone, without the device's name)
    when any part of it is wrong: then none of it is used."""
    # Copies, so that what is used later is what was checked even when the device reuses its buffers.
    try:
        index, counter = np.array(solutions.index), np.array(solutions.counter)
        told = getattr(solutions, "hashes", None)
    except Exception as error:  # whatever it was that came back, it was no answer
        raise BackendError(f"no solutions but {type(solutions).__name__} came back") from error
    if index.dtype != np.uint32 or counter.dtype != np.uint64:
        raise BackendError(f"solutions are {index.dtype} and {counter.dtype}, not uint32 and uint64")
    if index.ndim != 1 or index.shape != counter.shape:
        raise BackendError(f"solutions have the shapes {index.shape} and {counter.shape}")
    if not len(index):
        headers = work.headers[:0].copy()
    else:
        _check_index(index, len(work.headers))
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
    tried = _tried(work, index, counter)
    hashes = int(tried.sum())
    if isinstance(told, int):
        hashes = min(hashes, max(0, told))
    return Checked(index, counter, headers, tried, hashes)


def check_sealed(task: Task, sealed: Sealed) -> Sealed:
    """Re-check a miner's answer. Raises BackendError (the reason alone) when any part of it is wrong: then
    none of it is used."""
    try:
        index, headers = np.array(sealed.index), np.array(sealed.headers)
        extranonces, hashes, rate = np.array(sealed.extranonces), int(sealed.hashes), float(sealed.rate)
    except Exception as error:  # whatever it was that came back, it was no answer
        raise BackendError(f"no sealed headers but {type(sealed).__name__} came back") from error
    if index.dtype != np.uint32 or headers.dtype != HEADER or extranonces.dtype != np.uint64:
        raise BackendError("what was sealed has not the types of the contract")
    if not index.ndim == 1 or not index.shape == headers.shape == extranonces.shape:
        raise BackendError("what was sealed has not one length")
    answer = Sealed(index, headers, extranonces, hashes, rate)
    if not len(index):
        return answer
    _check_index(index, len(task.headers))
    asked = task.headers[index]
    if (headers["prev"] != asked["prev"]).any() or (headers["bits"] != asked["bits"]).any():
        raise BackendError("a header was sealed that was not asked for")
    if (headers["version"] & np.uint32(0xFFFFFFFF ^ ROLL_MASK) != VERSION).any():
        raise BackendError("version bits were rolled that are not a miner's")
    times = headers["time"].astype(np.int64)
    earliest = np.maximum(task.not_before[index], 1)
    if ((times < earliest) | (times > np.maximum(earliest, task.now) + MAX_AHEAD)).any():
        raise BackendError("a header's time is before its block was built, or ahead of the clock")
    if int(extranonces.max()) > MAX_EXTRANONCE:
        raise BackendError("an extranonce is above 2^63-1")
    for row, header in enumerate(headers):
        root = merkle_root(task.manifests[index[row]], int(extranonces[row]))
        if header["merkle_root"].tobytes() != root:
            raise BackendError("a merkle root is not that of the manifest and the extranonce")
    if not meets_target(headers).all():
        raise BackendError("a header does not meet its target")
    return answer


def _check_index(index: NDArray[np.uint32], headers: int) -> None:
    if int(index.max()) >= headers:
        raise BackendError(f"header {index.max()} of {headers} is said to be solved")
    if np.bincount(index, minlength=1).max() > 1:
        raise BackendError("a header is said to be solved twice in one answer")


def _tried(work: Work, index: NDArray[np.uint32], counter: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Of each header the counters up to its hit, all of the range where there is none: (n,) uint64."""
    space = np.uint64(work.rolls * NONCES)
    ranges = np.minimum(space - np.minimum(work.start, space), np.uint64(min(work.count, int(space))))
    ranges[index] = counter - work.start[index] + np.uint64(1)
    return ranges
