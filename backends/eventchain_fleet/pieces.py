"""Cutting work into parts of a wanted size, and taking parts back. Bookkeeping: no network, no clock."""

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
    """Some of a work's headers.

    rows: (m,) int64; start: (m,) uint64, the first counter to try for each, never beyond the last there is
    count: how many to try for each
    ends: (m,) float64, the expected hashes up to the end of each header, running on from ``base``
    """

    rows: NDArray[np.int64]
    start: NDArray[np.uint64]
    count: int
    ends: NDArray[np.float64]
    base: float = 0.0

    @property
    def hashes(self) -> float:
        """Expected hashes: a search ends at a header's first solution."""
        return float(self.ends[-1]) - self.base

    def split(self, at: int) -> tuple[Part, Part]:
        """The first headers and the others: views, so that it costs nothing."""
        base = float(self.ends[at - 1]) if at else self.base
        return (
            Part(self.rows[:at], self.start[:at], self.count, self.ends[:at], self.base),
            Part(self.rows[at:], self.start[at:], self.count, self.ends[at:], base),
        )


class Cutter:
    """A work, what of it nobody searches yet, and what is found. One thread uses it."""

    def __init__(self, work: Work) -> None:
        self._headers, self._rolls = work.headers, work.rolls
        self._space = work.rolls * NONCES
        bits, where = np.unique(work.headers["bits"], return_inverse=True)
        self._expected = np.array([float(work_of(int(b))) for b in bits])[where.reshape(-1)]
        self._found = np.full(len(work.headers), -1, np.int64)
        self._rest: deque[Part] = deque()
        self._push(np.arange(len(work.headers)), work.start, min(work.count, self._space))

    # -- what there is to do

    @property
    def exhausted(self) -> bool:
        """Nothing is left to hand out."""
        self._skip_solved()
        return not self._rest

    @property
    def hashes_left(self) -> float:
        """What handing out the rest would cost, as expected."""
        return sum(part.hashes for part in self._rest)

    def odds(self, part: Part) -> float:
        """How many headers of a part should be solved by searching it, on average."""
        return float((np.diff(part.ends, prepend=part.base) / self._expected[part.rows]).sum())

    # -- handing out and taking back

    def draw(self, hashes: float, most: int) -> Part | None:
        """The next part, of about so many expected hashes (at least one nonce) and at most ``most`` headers;
        None when nothing is left."""
        self._skip_solved()
        if not self._rest:
            return None
        part = self._rest.popleft()
        headers = int(np.searchsorted(part.ends, part.base + hashes, "right"))
        if headers:
            drawn, rest = part.split(min(headers, most))
            self._add(rest)
            return self._unsolved(drawn)
        first, rest = part.split(1)
        self._add(rest)
        count = min(max(1, int(hashes) // self._rolls) * self._rolls, first.count)
        self._push(first.rows, first.start + np.uint64(count), first.count - count)
        return self._part(first.rows, first.start, count)

    def put_back(self, part: Part) -> None:
        """What was handed out is to be handed out again, first of all."""
        self._add(part)

    def _part(self, rows: NDArray[np.int64], start: NDArray[np.uint64], count: int) -> Part:
        expected = self._expected[rows]
        # -expm1(-x) is the chance of a solution: 1 - (1 - 1/expected)**count, as 1 - exp(-count/expected)
        return Part(rows, start, count, np.cumsum(-np.expm1(-count / expected) * expected))

    def _push(self, rows: NDArray[np.int64], start: NDArray[np.uint64], count: int) -> None:
        inside = start < np.uint64(self._space)
        if count and inside.any():
            self._add(self._part(rows[inside], start[inside], count))

    def _add(self, part: Part) -> None:
        if len(part.rows):
            self._rest.appendleft(part)

    def _skip_solved(self) -> None:
        """Afterwards the next header is not solved. Others seldom are: only what was handed out before or is
        searched elsewhere."""
        while self._rest and self._found[self._rest[0].rows[0]] >= 0:
            self._add(self._unsolved(self._rest.popleft()))

    def _unsolved(self, part: Part) -> Part:
        wanted = self.is_wanted(part)
        return part if wanted.all() else self._part(part.rows[wanted], part.start[wanted], part.count)

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
