"""The contract of a mining backend: the one replaceable part that searches nonces.

A backend is found through the entry-point group ``eventchain.backends``; the entry point is a callable that
returns a :class:`Backend` or raises :class:`~eventchain.errors.BackendError` with the reason why it cannot be
used here. It is called without arguments, or with the settings that the configuration has for it, as keyword
arguments. It is imported only when it is chosen.

A device only searches. Rolling the extranonce, progress, cancelling, splitting work over devices,
re-checking solutions and benching a device that returns wrong ones is the engine's, once for all. Hardware
that insists on rolling extranonce, time and version by itself cannot be told which counters to try: it is a
:class:`Miner`, which is given what blocks say and answers with what it found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

NONCES = 2**32
MAX_ROLLS = 2**16
MAX_AHEAD = 600


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
    hashes: how many were tried, where the search ended before all others had their whole range tried
    """

    index: NDArray[np.uint32]
    counter: NDArray[np.uint64]
    hashes: int | None = None


class Device(Protocol):
    """One device. ``search`` is pure and re-entrant: no I/O, no knowledge of chains, and it may be called
    from several threads. It may take long to prepare on its first call. It raises
    :class:`~eventchain.errors.BackendError` when the device fails.

    A device that is far away may have three attributes more. ``slice_seconds``: how long a search had better
    take, where the engine's quarter of a second is too short. ``hashes_per_second``: how fast it is, where
    its searches wait for each other. ``interrupt()``: searches in flight are to return what they have, since
    the engine closes."""

    @property
    def name(self) -> str:
        """A name for people, unique within the backend: ``NVIDIA H200 #0``."""
        ...

    def search(self, work: Work) -> Solutions: ...


@dataclass(frozen=True, slots=True)
class Task:
    """Blocks to mine, for a miner that rolls everything that may be rolled.

    headers: (n,) array of ``HEADER``, of which ``prev`` and ``bits`` count: all else is to be found
    manifests: n byte strings, the coinbase before its extranonce
    not_before: (n,) int64, unix seconds, the least time that each may be mined at
    now: unix seconds, the engine's clock; a time may be ``MAX_AHEAD`` seconds after the later of the two
    """

    headers: NDArray[Any]
    manifests: Sequence[bytes]
    not_before: NDArray[np.int64]
    now: int


@dataclass(frozen=True, slots=True)
class Sealed:
    """What a miner found since its last answer.

    index: (m,) uint32, which block of the task, each at most once
    headers: (m,) ``HEADER`` as mined
    extranonces: (m,) uint64, at most 2^63−1
    hashes: how many were tried meanwhile, and ``rate``: how many a second now, as far as it is known
    """

    index: NDArray[np.uint32]
    headers: NDArray[Any]
    extranonces: NDArray[np.uint64]
    hashes: int
    rate: float


@runtime_checkable
class Miner(Protocol):
    """In the place of a device: something that seals blocks by itself. The engine enters it as a context when
    it begins and leaves it when it ends, and calls ``mine`` again and again from one thread, with the blocks
    that are not solved; most of them are those of the call before. Errors are BackendErrors."""

    @property
    def name(self) -> str:
        """A name for people, unique within the backend."""
        ...

    @property
    def width(self) -> int:
        """How many blocks it can make use of at once."""
        ...

    def mine(self, task: Task) -> Sealed:
        """Returns soon after something was found, and within half a second when nothing was."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Backend(Protocol):
    """A way to mine, with every device that it found on this host (at least one), or miner.

    One whose devices mean nothing to people may have one attribute more, ``summary``: who mines."""

    @property
    def name(self) -> str: ...

    @property
    def devices(self) -> Sequence[Device | Miner]: ...
