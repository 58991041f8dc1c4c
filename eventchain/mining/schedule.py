"""Which device searches which counters of which headers next: bookkeeping only, no threads, no clock.

All headers lie in one table, in the order in which they were added. A header is *ready*, or *held* by the
slices that devices are working on. Counters are handed out once and in ascending order, so two devices
never try the same one; a range that a failed device leaves unsearched is not searched again, since one
counter is as good as another.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventchain.contracts.backend import NONCES, Task, Work
from eventchain.formats.header import HEADER, MAX_EXTRANONCE, merkle_root, work_of

PATIENCE = 4
"""An easy header is given this multiple of its expected hashes at a time: 98 in 100 are solved then."""
FIRST_RATE = 2**18
"""Hashes a second, by which a device's first slice is cut, before anything is known of its speed."""
GROWTH = 8
"""A slice is at most this much larger than the one before."""
ROLLS = 16
"""Versions of a header that are tried with each nonce: kernels share a message schedule among them."""
ROLLED_FROM = 2**10
"""Expected hashes from which a header's version is rolled: easier ones are solved within a few nonces."""
MAX_HEADERS = 2**17
"""In one slice; bounds the memory of a fast device with very easy headers."""


def rolls_of(expected: float, rolls: int = ROLLS) -> int:
    """How many versions of a header are tried with each nonce, by its expected hashes."""
    return rolls if expected >= ROLLED_FROM else 1


_ROW = np.dtype(
    [
        ("key", np.int64),
        ("header", HEADER),
        ("next", np.uint64),  # the first counter that was never handed out
        ("extranonce", np.uint64),
        ("not_before", np.int64),
        ("expected", np.float64),  # hashes
        ("holders", np.int32),  # slices that it is part of
        ("live", np.bool_),  # not solved yet
    ]
)


@dataclass(frozen=True, slots=True)
class Mined:
    """Solved headers: keys (n,) int64, headers (n,) ``HEADER`` as mined, extranonces (n,) uint64."""

    keys: NDArray[np.int64]
    headers: NDArray[Any]
    extranonces: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.keys)

    @staticmethod
    def join(parts: Sequence[Mined]) -> Mined:
        if not parts:
            return Mined(np.empty(0, np.int64), np.empty(0, HEADER), np.empty(0, np.uint64))
        return Mined(
            np.concatenate([part.keys for part in parts]),
            np.concatenate([part.headers for part in parts]),
            np.concatenate([part.extranonces for part in parts]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """A piece of work for one device. It keeps the headers as they were handed out: another device may
    have rolled one of them since."""

    device: int
    ids: NDArray[np.int64]
    extranonces: NDArray[np.uint64]  # of a search
    work: Work | Task


class Pace:
    """How fast a device is, and how many hashes it is given at a time. Each slice counts twice as much as
    the one before it."""

    def __init__(self, slice_seconds: float) -> None:
        self.budget = FIRST_RATE * slice_seconds
        self._slice_seconds = slice_seconds
        self._hashes = self._seconds = 0.0

    @property
    def rate(self) -> float:
        """Hashes a second, 0 when nothing is known yet."""
        return self._hashes / self._seconds if self._seconds else 0.0

    def update(self, hashes: int, seconds: float) -> None:
        self._hashes = self._hashes / 2 + hashes
        self._seconds = self._seconds / 2 + max(seconds, 1e-9)
        self.budget = max(1.0, min(self.budget * GROWTH, self.rate * self._slice_seconds))

    def set(self, rate: float) -> None:
        """Where it is measured elsewhere."""
        self._hashes, self._seconds = rate, 1.0


class Schedule:
    """``slice_seconds``: how long a slice should take, one number for all devices or one for each.
    ``rolls``: versions tried with each nonce, where a header is hard enough (:data:`ROLLED_FROM`).
    ``space``: counters of a header after which its extranonce is rolled; all that there are by default.
    A slice may go past a smaller one."""

    def __init__(
        self,
        devices: int,
        *,
        slice_seconds: float | Sequence[float] = 0.25,
        rolls: int = ROLLS,
        space: int | None = None,
    ) -> None:
        self._rolls = rolls
        self._space = space
        self.paces: dict[int, Pace] = {
            device: Pace(seconds)
            for device, seconds in enumerate(np.broadcast_to(slice_seconds, devices).tolist())
        }
        self._table = np.zeros(0, _ROW)
        self._used = 0  # rows of the table that hold a header
        self._base = 0  # the id of row 0
        self._ready: NDArray[np.int64] = np.empty(0, np.int64)  # ids, ascending
        self._open: set[Slice] = set()
        self._manifests: list[tuple[int, Sequence[bytes]]] = []  # the first id of each addition
        self._unsolved: Counter[int] = Counter()  # headers by bits

    # -- what there is to do ------------------------------------------------------------------------------

    @property
    def outstanding(self) -> int:
        """Headers that are not solved."""
        return self._unsolved.total()

    @property
    def expected_hashes(self) -> int:
        """Expected hashes until all are solved: the sum of their work."""
        return sum(work_of(bits) * headers for bits, headers in self._unsolved.items() if headers)

    def add(
        self,
        keys: NDArray[np.int64],
        headers: NDArray[Any],
        manifests: Sequence[bytes],
        not_before: NDArray[np.int64],
    ) -> None:
        """Add headers (unmined, extranonce 0); of each its time will be at least ``not_before``. The
        manifests are kept as they are given and read only when an extranonce is rolled.

        Raises FormatError for bits that are no target, ValueError for arrays of different lengths.
        """
        if not len(keys) == len(headers) == len(manifests) == len(not_before):
            raise ValueError("keys, headers, manifests and not_before must have one length")
        if not len(keys):
            return
        bits, where, counts = np.unique(headers["bits"], return_inverse=True, return_counts=True)
        expected = np.array([float(work_of(int(b))) for b in bits])
        self._make_room(len(keys))
        first, self._used = self._used, self._used + len(keys)
        rows = self._table[first : self._used]
        rows["key"], rows["header"], rows["not_before"] = keys, headers, not_before
        rows["header"]["time"] = 0
        rows["expected"] = expected[where]
        rows["live"] = True
        self._unsolved.update(dict(zip(bits.tolist(), counts.tolist(), strict=True)))
        self._manifests.append((self._base + first, manifests))
        ids = np.arange(self._base + first, self._base + self._used)
        self._ready = np.concatenate([self._ready, ids])

    def _make_room(self, count: int) -> None:
        """Drop the solved rows at the front and double the table: in the long run a row costs O(1)."""
        if self._used + count <= len(self._table):
            return
        live = self._table["live"][: self._used]
        solved = int(live.argmax()) if live.any() else self._used
        kept = self._table[solved : self._used]
        table = np.zeros(2 * (len(kept) + count), _ROW)
        table[: len(kept)] = kept
        self._table, self._used, self._base = table, len(kept), self._base + solved
        ends = [first for first, _ in self._manifests[1:]] + [self._base + self._used]
        self._manifests = [
            batch for batch, end in zip(self._manifests, ends, strict=False) if end > self._base
        ]

    # -- handing out --------------------------------------------------------------------------------------

    def next(self, device: int, now: int) -> Slice | None:
        """The next slice for the device, None when every header is solved. ``now`` (unix seconds) becomes
        the time of headers whose search begins."""
        if not self.outstanding:
            return None
        ids, count, rolls = self._pick(self.paces[device])
        rows = ids - self._base
        self._refresh(rows, now, self._space_of(rolls))
        start = self._table["next"][rows]
        self._table["next"][rows] = start + np.uint64(count)
        work = Work(self._table["header"][rows], start, count, rolls)
        return self._hold(Slice(device, ids, self._table["extranonce"][rows], work))

    def task(self, device: int, headers: int, now: int) -> Slice | None:
        """The first so many headers that no other device has, for a miner; those of others when there are no
        more. None when every header is solved. ``now``: unix seconds."""
        if not self.outstanding:
            return None
        if len(self._ready):
            ids, self._ready = np.split(self._ready, [headers])
        else:
            ids = self._held()[:headers]
        rows = ids - self._base
        manifests = [self._manifest(id) for id in ids.tolist()]
        task = Task(self._table["header"][rows], manifests, self._table["not_before"][rows], now)
        return self._hold(Slice(device, ids, np.empty(0, np.uint64), task))

    def _hold(self, piece: Slice) -> Slice:
        self._table["holders"][piece.ids - self._base] += 1
        self._open.add(piece)
        return piece

    def _held(self) -> NDArray[np.int64]:
        """Ids of what devices hold and is not solved, first in order first."""
        held = np.unique(np.concatenate([piece.ids for piece in self._open]))
        return held[self._live(held)]

    def _pick(self, pace: Pace) -> tuple[NDArray[np.int64], int, int]:
        """Ids of headers of equal bits, how many counters to try for each, how many of them a nonce has."""
        pool, share = self._ready, self._share(pace)
        if shared := not len(pool):  # then help with what the others hold, first in order first
            pool, share = self._held(), 1.0
        first = self._table[pool[0] - self._base]
        expected = float(first["expected"])
        headers = min(int(pace.budget / expected), math.ceil(len(pool) * share), MAX_HEADERS)
        window, rest = np.split(pool, [max(1, headers)])
        same = self._table["header"]["bits"][window - self._base] == first["header"]["bits"]
        if not shared:
            self._ready = rest if same.all() else np.concatenate([window[~same], rest])
        rolls = rolls_of(expected, self._rolls)
        nonces = math.ceil(min(PATIENCE * expected, pace.budget) / rolls)
        return window[same], min(nonces * rolls, self._space_of(rolls)), rolls

    def _space_of(self, rolls: int) -> int:
        return rolls * NONCES if self._space is None else self._space

    def _share(self, pace: Pace) -> float:
        """The device's part of all speed, so that no device takes what the others could do meanwhile."""
        rates = [other.rate for other in self.paces.values()]
        return pace.rate / sum(rates) if all(rates) else 1 / len(rates)

    def _refresh(self, rows: NDArray[np.int64], now: int, space: int) -> None:
        """Give headers that begin a time, and those whose ``space`` counters are used up a new extranonce."""
        header = self._table["header"]
        spent = rows[self._table["next"][rows] >= space]
        for row in spent.tolist():  # once in 2**32 hashes
            # Past the largest extranonce it starts again at 0: the time is another by then.
            extranonce = int(self._table["extranonce"][row]) + 1 & MAX_EXTRANONCE
            root = merkle_root(self._manifest(self._base + row), extranonce)
            self._table["extranonce"][row] = extranonce
            header["merkle_root"][row] = np.frombuffer(root, np.uint8)
        self._table["next"][spent] = 0
        header["time"][spent] = 0
        fresh = rows[header["time"][rows] == 0]
        header["time"][fresh] = np.maximum(self._table["not_before"][fresh], max(1, now))

    def _manifest(self, id: int) -> bytes:
        first, manifests = self._manifests[bisect_right(self._manifests, id, key=lambda batch: batch[0]) - 1]
        return manifests[id - first]

    # -- taking back --------------------------------------------------------------------------------------

    def report(
        self,
        piece: Slice,
        index: NDArray[np.uint32],
        headers: NDArray[Any],
        extranonces: NDArray[np.uint64] | None = None,
    ) -> Mined:
        """Take back a slice with its solutions, which must be right; ``extranonces`` are a miner's. Returns
        those of headers that no other slice has solved before."""
        if extranonces is None:
            extranonces = piece.extranonces[index]
        news = self._live(piece.ids[index])
        index, headers, extranonces = index[news], headers[news], extranonces[news]
        rows = piece.ids[index] - self._base
        self._table["live"][rows] = False
        bits, counts = np.unique(headers["bits"], return_counts=True)
        self._unsolved.subtract(dict(zip(bits.tolist(), counts.tolist(), strict=True)))
        self.give_back(piece)
        return Mined(self._table["key"][rows], headers, extranonces)

    def give_back(self, piece: Slice) -> None:
        """Take back a slice; what of it is not solved and not held elsewhere is ready again, in its place
        in the order."""
        self._open.remove(piece)
        ids = piece.ids[self._live(piece.ids)]
        holders = self._table["holders"][ids - self._base] - 1
        self._table["holders"][ids - self._base] = holders
        free = ids[holders == 0]
        self._ready = np.insert(self._ready, np.searchsorted(self._ready, free), free)

    def bench(self, device: int) -> None:
        """The device gets no more work; its slices must have been given back."""
        del self.paces[device]

    def _live(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        rows = ids - self._base
        live: NDArray[np.bool_] = rows >= 0  # rows before the table's first are solved and dropped
        live[live] = self._table["live"][rows[live]]
        return live
