"""The contract of a mining backend: the one replaceable part that searches nonces.

A backend is found through the entry-point group ``eventchain.backends``; the entry point is a callable that
returns a :class:`Backend` or raises :class:`~eventchain.errors.BackendError` with the reason why it cannot be
used here. It is called without arguments, or with the settings that the configuration has for it, as keyword
arguments. It is imported only when it is chosen.

A device only searches. Rolling the extranonce, progress, cancelling, splitting work over devices,
re-checking solutions and benching a device that returns wrong ones is the engine's, once for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

NONCES = 2**32
MAX_ROLLS = 2**16


@dataclass(frozen=True, slots=True)
class Work:
    """Headers to search, and which counters to try for each.

    Counter ``c`` stands for nonce ``c // rolls`` with ``c % rolls`` in the header's rolled version bits
    (BIP 320, bits 13-28), which it overwrites. Tried are ``start[i] <= c < start[i] + count``; counters
    from ``rolls * 2**32`` on are not tried and nothing wraps. The target is each header's own ``bits``.

    headers: C-contiguous (n,) array of ``eventchain.formats.header.HEADER``
    start: (n,) uint64
    count: how many counters to try for each header, 0 or more
    rolls: a power of two from 1 to 2**16
    """

    headers: NDArray[Any]
    start: NDArray[np.uint64]
    count: int
    rolls: int = 1

    def __post_init__(self) -> None:
        if not self.headers.flags.c_contiguous or self.headers.ndim != 1:
            raise ValueError("headers must be a C-contiguous array of one dimension")
        if self.start.shape != self.headers.shape or self.start.dtype != np.uint64:
            raise ValueError("start must hold one uint64 for each header")
        if self.count < 0:
            raise ValueError("count must not be negative")
        if not 1 <= self.rolls <= MAX_ROLLS or self.rolls & (self.rolls - 1):
            raise ValueError("rolls must be a power of two from 1 to 65536")


@dataclass(frozen=True, slots=True)
class Solutions:
    """Valid hits: at most one for a header, any one in its range, in any order.

    index: (m,) uint32, which header of the work
    counter: (m,) uint64, the counter that meets the header's target
    """

    index: NDArray[np.uint32]
    counter: NDArray[np.uint64]


class Device(Protocol):
    """One device. ``search`` is pure and re-entrant: no I/O, no knowledge of chains, and it may be called
    from several threads. It may take long to prepare on its first call. It raises
    :class:`~eventchain.errors.BackendError` when the device fails.

    A device that is far away may have two attributes more. ``slice_seconds``: how long a search had better
    take, where the engine's quarter of a second is too short. ``interrupt()``: searches in flight are to
    return what they have, since the engine closes."""

    @property
    def name(self) -> str:
        """A name for people, unique within the backend: ``NVIDIA H200 #0``."""
        ...

    def search(self, work: Work) -> Solutions: ...


class Backend(Protocol):
    """A way to search, with every device that it found on this host (at least one)."""

    @property
    def name(self) -> str: ...

    @property
    def devices(self) -> Sequence[Device]: ...
