"""Cutting work into pieces of a wanted size, and taking pieces back. Bookkeeping only: no network, no clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eventchain.contracts.backend import NONCES, Solutions, Work
from eventchain.formats.header import work_of


@dataclass(frozen=True, slots=True)
class Part:
    """Some of a work's headers: ``rows`` (m,) int64, and for each the first counter to try; ``count`` for each.
    No start lies beyond the last counter there is."""

    rows: NDArray[np.int64]
    start: NDArray[np.uint64]
    count: int


class Cutter:
    """A work, what of it nobody searches yet, and what is found. One thread uses it."""

    def __init__(self, work: Work) -> None:
        self._headers, self._rolls = work.headers, work.rolls
        self._space = work.rolls * NONCES
        bits, where = np.unique(work.headers["bits"], return_inverse=True)
        self._expected = np.array([float(work_of(int(b))) for b in bits])[where.reshape(-1)]
        self._found = np.full(len(work.headers), -1, np.int64)
        self._rest: deque[Part] = deque()
        rows = np.flatnonzero(work.start < np.uint64(self._space))
        if len(rows) and work.count:
            self._rest.append(Part(rows, work.start[rows], min(work.count, self._space)))

    # -- what there is to do

    @property
    def exhausted(self) -> bool:
        """Nothing is left to hand out."""
        self._skip_solved()
        return not self._rest

    @property
    def hashes_left(self) -> float:
        """What handing out the rest would cost, as expected."""
        return sum(self.cost(part) for part in self._rest)

    def cost(self, part: Part) -> float:
        """Expected hashes of a part: a search ends at a header's first solution."""
        return float(self._costs(part)[self._found[part.rows] < 0].sum())

    def odds(self, part: Part) -> float:
        """How many headers of a part should be solved by searching it, on average."""
        return float((self._costs(part) / self._expected[part.rows]).sum())

    def _costs(self, part: Part) -> NDArray[np.float64]:
        expected = self._expected[part.rows]
        # -expm1(-x) is the chance of a solution: 1 - (1 - 1/expected)**count, as 1 - exp(-count/expected)
        costs: NDArray[np.float64] = -np.expm1(-part.count / expected) * expected
        return costs

    # -- handing out and taking back

    def draw(self, hashes: float, most: int) -> Part | None:
        """The next part, of about so many expected hashes (at least one nonce) and at most ``most`` headers;
        None when nothing is left."""
        self._skip_solved()
        if not self._rest:
            return None
        part = self._rest.popleft()
        headers = int(np.searchsorted(np.cumsum(self._costs(part)), hashes, "right"))
        if headers:
            headers = min(headers, most)
            self._push(part.rows[headers:], part.start[headers:], part.count)
            return Part(part.rows[:headers], part.start[:headers], part.count)
        self._push(part.rows[1:], part.start[1:], part.count)
        count = min(max(1, int(hashes) // self._rolls) * self._rolls, part.count)
        self._push(part.rows[:1], part.start[:1] + np.uint64(count), part.count - count)
        return Part(part.rows[:1], part.start[:1], count)

    def put_back(self, part: Part) -> None:
        """What was handed out is to be handed out again, first of all."""
        self._push(part.rows, part.start, part.count)

    def _push(self, rows: NDArray[np.int64], start: NDArray[np.uint64], count: int) -> None:
        inside = start < np.uint64(self._space)
        if count and inside.any():
            self._rest.appendleft(Part(rows[inside], start[inside], count))

    def _skip_solved(self) -> None:
        while self._rest:
            part = self._rest[0]
            wanted = self._found[part.rows] < 0
            if wanted.all():
                return
            self._rest.popleft()
            self._push(part.rows[wanted], part.start[wanted], part.count)

    def work(self, part: Part) -> Work:
        return Work(self._headers[part.rows], part.start, part.count, self._rolls)

    # -- what is found

    def solve(self, part: Part, solutions: Solutions) -> NDArray[np.int64]:
        """Take solutions of a part, which must be right; returns the rows that were not solved before."""
        rows = part.rows[solutions.index]
        news = self._found[rows] < 0
        self._found[rows[news]] = solutions.counter[news].astype(np.int64)
        fresh: NDArray[np.int64] = rows[news]
        return fresh

    def abandon(self, rows: NDArray[np.int64]) -> None:
        """Nobody wants these headers any more."""
        self._found[rows[self._found[rows] < 0]] = _ABANDONED

    def is_wanted(self, part: Part) -> NDArray[np.bool_]:
        wanted: NDArray[np.bool_] = self._found[part.rows] < 0
        return wanted

    @property
    def headers(self) -> NDArray[Any]:
        return self._headers

    def solutions(self) -> Solutions:
        index = np.flatnonzero((self._found >= 0) & (self._found != _ABANDONED))
        return Solutions(index.astype(np.uint32), self._found[index].astype(np.uint64))


_ABANDONED = np.iinfo(np.int64).max  # in the place of a counter; a real one is below 2^48
